//! Values of a configuration, each with its right spelling for who writes another.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr as _, time::Duration};

use bytesize::ByteSize;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};

use super::super::{
    address::{AdminAddress, socket_address},
    bundles::header_name,
    image::Image,
    pin::Pin,
};
use crate::storage::DatabaseAddress;

/// A number of bytes above 0: `"16MiB"`.
#[derive(Clone, Copy)]
pub(super) struct Size(pub(super) ByteSize);

impl Size {
    pub(super) fn bytes(self) -> usize {
        usize::try_from(self.0.as_u64()).unwrap_or(usize::MAX)
    }
}

/// A time above 0: `"20ms"`, `"10s"`.
#[derive(Clone, Copy)]
pub(super) struct Time(pub(super) Duration);

#[derive(Clone)]
pub(super) struct Address(pub(super) DatabaseAddress);

/// A UUID in text.
#[derive(Clone, Copy)]
pub(super) struct Uuid(pub(super) uuid::Uuid);

/// An address to listen at.
#[derive(Clone, Copy)]
pub(super) struct Listen(pub(super) SocketAddr);

/// An address of the administration.
#[derive(Clone)]
pub(super) struct Admin(pub(super) AdminAddress);

/// A host name, without a port.
#[derive(Clone)]
pub(super) struct Host(pub(super) String);

/// Name of a header.
#[derive(Clone)]
pub(super) struct Header(pub(super) String);

/// The beginning of paths, such as `/acme`; empty for all of the host.
#[derive(Clone, Default)]
pub(super) struct Prefix(pub(super) String);

/// A component: a file, or a file with the image that it is pulled from, and with its pins.
#[derive(Clone)]
pub(super) struct Component {
    pub(super) file: PathBuf,
    pub(super) image: Option<Image>,
    pub(super) pin: Pin,
}

impl<'de> Deserialize<'de> for Component {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        struct Pinned {
            file: PathBuf,
            oci: Option<String>,
            digest: Option<String>,
            signed_by: Option<String>,
        }

        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Component;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(
                    "a file in quotes, or { file = \"…\", oci = \"…\", digest = \"sha256:…\", signed-by = \"…\" }",
                )
            }

            fn visit_str<E: Error>(self, file: &str) -> Result<Component, E> {
                Ok(Component { file: file.into(), image: None, pin: Pin::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Component, A::Error> {
                let Pinned { file, oci, digest, signed_by } = Pinned::deserialize(MapAccessDeserializer::new(map))?;
                let digest = digest.map(|text| text.parse()).transpose().map_err(A::Error::custom)?;
                let signed_by = signed_by.map(|text| text.parse()).transpose().map_err(A::Error::custom)?;
                let image = oci.map(|text| text.parse()).transpose().map_err(A::Error::custom)?;
                Ok(Component { file, image, pin: Pin { digest, signed_by } })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Reads a value from its text. Errors say how one is spelled, and nothing of what was there.
macro_rules! from_text {
    ($type:ident, $spelling:literal, $parse:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                        formatter.write_str($spelling)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$type, E> {
                        let parsed: Option<_> = $parse(text);
                        parsed.map($type).ok_or_else(|| E::invalid_value(Unexpected::Other("text"), &self))
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

from_text!(Time, "a time above 0 in quotes, such as \"10ms\" or \"10s\"", |text| {
    humantime::parse_duration(text).ok().filter(|time| !time.is_zero())
});
from_text!(Size, "a size above 0 in quotes, such as \"16MiB\"", |text: &str| {
    text.parse().ok().filter(|size: &ByteSize| size.as_u64() > 0)
});
from_text!(Address, "a database: \"sqlite:PATH\", \"sqlite::memory:\" or \"postgres://USER@HOST/NAME\"", |text| {
    DatabaseAddress::parse(text).ok()
});
from_text!(Uuid, "a UUID in quotes, such as \"123e4567-e89b-42d3-a456-426614174000\"", |text| uuid::Uuid::try_parse(
    text
)
.ok());
from_text!(Listen, "an address in quotes, such as \"127.0.0.1:8080\"", |text| socket_address(text).ok());
from_text!(Admin, "an address in quotes, such as \"127.0.0.1:9090\" or \"unix:admin.sock\"", |text| {
    AdminAddress::from_str(text).ok()
});
from_text!(Host, "a host name without a port, such as \"acme.example\"", |text: &str| {
    let is_name =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '[' | ']' | ':');
    let has_port = !text.ends_with(']') && text.contains(':');
    (!text.is_empty() && !has_port && text.chars().all(is_name)).then(|| text.to_owned())
});
from_text!(Header, "the name of a header, such as \"x-record\"", |text: &str| header_name(text).ok());
from_text!(Prefix, "a path that begins with / and does not end with it, such as \"/acme\"", |text: &str| {
    let segments = text.strip_prefix('/').map(|rest| rest.split('/'));
    let is_plain = |segment: &str| {
        !segment.is_empty()
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~'))
    };
    segments.is_some_and(|mut segments| segments.all(is_plain)).then(|| text.to_owned())
});
