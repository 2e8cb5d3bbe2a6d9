//! Images of components in registries (OCI distribution). One is pulled at each load, into the file that its tenant names.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use anyhow::Result;

use super::{
    cache::Unfinished,
    pin::{SignatureText, signature_of},
};
use crate::files::{self, Limit};

/// Reference of an image, such as `ghcr.io/acme/workspaces:1.2`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Image(client::Reference);

/// Component that was pulled.
pub(super) struct Pulled {
    pub(super) wasm: Vec<u8>,
    pub(super) signature: SignatureText,
}

/// Component that was pulled and serves: it is written to its file, for a start without the registry.
pub(super) struct Kept {
    pub(super) file: PathBuf,
    pub(super) signature: Option<String>,
    pub(super) wasm: Arc<Vec<u8>>,
}

impl Kept {
    /// Writes the component and its signature, unless they are there. A failure is logged.
    pub(super) async fn keep(self) {
        let name = self.file.display().to_string();
        if let Err(error) = files::unblocked(move || self.write()).await.flatten() {
            tracing::warn!(file = name, %error, "component of an image not kept: it can't be loaded without the registry");
        }
    }

    fn write(&self) -> io::Result<()> {
        let signature = signature_of(&self.file);
        write(&self.file, &self.wasm)?;
        match &self.signature {
            Some(text) => write(&signature, text.as_bytes()),
            None if signature.exists() => fs::remove_file(signature),
            None => Ok(()),
        }
    }
}

/// Writes a file as a whole, unless it has this content: who watches it would see a change.
fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    if files::read(file, Limit::fixed(content.len() as u64)).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    let unfinished = Unfinished::new(folder, &[content])?;
    File::open(&unfinished.0)?.sync_all()?;
    fs::rename(&unfinished.0, file)
}

impl Image {
    /// Pulls the component, of so many bytes at most.
    ///
    /// # Errors
    ///
    /// No answer in time, a refusal, an image without a component, or content of another digest.
    pub(super) async fn pull(&self, most: usize) -> Result<Pulled> {
        client::pull(&self.0, most).await
    }
}

impl FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        client::reference(text).map(Self)
    }
}

impl fmt::Display for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(feature = "oci")]
mod client {
    use std::{net::IpAddr, time::Duration};

    use anyhow::{Context as _, Result, bail, ensure};
    use docker_credential::DockerCredential;
    use futures_util::StreamExt as _;
    pub(super) use oci_client::Reference;
    use oci_client::{
        Client,
        client::{ClientConfig, ClientProtocol},
        manifest::{OciDescriptor, WASM_LAYER_MEDIA_TYPE},
        secrets::RegistryAuth,
    };
    use tokio::time::timeout;

    use super::Pulled;
    use crate::{files, runtime::Digest, server::pin::SignatureText};

    /// Longest time that a registry may take for a connection, and for each answer to go on.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Longest time that all of it may take.
    const TIMEOUT: Duration = Duration::from_secs(120);

    /// Media type of a component in the layout of the WebAssembly working group (tag-runtime.cncf.io/wgs/wasm).
    const WASM: &str = "application/wasm";

    /// Annotation with the name of the file that a layer was.
    const TITLE: &str = "org.opencontainers.image.title";

    /// Maximum size of a signature, in bytes.
    const SIGNATURE: usize = 4 << 10;

    pub(super) fn reference(text: &str) -> Result<Reference, String> {
        text.parse().map_err(|error| format!("no reference of an image ({error}): give registry/repository:tag"))
    }

    pub(super) async fn pull(image: &Reference, most: usize) -> Result<Pulled> {
        let pulled = timeout(TIMEOUT, pull_now(image, most)).await;
        pulled.unwrap_or_else(|_| bail!("it was not there within {TIMEOUT:?}"))
    }

    async fn pull_now(image: &Reference, most: usize) -> Result<Pulled> {
        // The client's TLS takes the provider that the process has set. It is set already where this fails.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = image.resolve_registry().to_owned();
        // Without TLS on this machine alone, as other clients of registries do.
        let protocol = if is_loopback(&registry) { ClientProtocol::Http } else { ClientProtocol::Https };
        let client = Client::try_from(ClientConfig {
            protocol,
            platform_resolver: None,
            connect_timeout: Some(PATIENCE),
            read_timeout: Some(PATIENCE),
            user_agent: concat!("workspaces/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        })?;
        let auth = files::unblocked(move || credentials(&registry)).await??;
        let (manifest, _) = client.pull_image_manifest(image, &auth).await?;
        let is_component = |layer: &&OciDescriptor| [WASM, WASM_LAYER_MEDIA_TYPE].contains(&&*layer.media_type);
        let mut components = manifest.layers.iter().filter(is_component);
        let (Some(component), None) = (components.next(), components.next()) else {
            bail!("it has no layer of the type {WASM}, or several: push one component")
        };
        let is_signature = |layer: &&OciDescriptor| {
            let title = layer.annotations.as_ref().and_then(|annotations| annotations.get(TITLE));
            title.is_some_and(|title| title.ends_with(".minisig"))
        };
        let wasm = blob(&client, image, component, most, "raise pool.component-size").await?;
        let text = match manifest.layers.iter().find(is_signature) {
            Some(layer) => {
                let text = blob(&client, image, layer, SIGNATURE, "no signature is as long").await?;
                Ok(String::from_utf8(text).context("its signature is not text")?)
            }
            None => Err(format!("it is not signed: {image} has no layer whose title ends with .minisig")),
        };
        Ok(Pulled { wasm, signature: SignatureText { name: format!("the signature in {image}"), text } })
    }

    /// Pulls a layer, of so many bytes at most whatever the registry says of its size.
    async fn blob(
        client: &Client,
        image: &Reference,
        layer: &OciDescriptor,
        most: usize,
        advice: &str,
    ) -> Result<Vec<u8>> {
        let mut stream = client.pull_blob_stream(image, layer).await?.stream;
        let mut bytes = Vec::new();
        while let Some(more) = stream.next().await {
            let more = more?;
            ensure!(bytes.len() + more.len() <= most, "a layer has over {most} bytes, the limit: {advice}");
            bytes.extend_from_slice(&more);
        }
        let digest = format!("sha256:{}", Digest::of(&bytes));
        ensure!(digest == layer.digest, "the registry sent {digest} for the layer {}", layer.digest);
        Ok(bytes)
    }

    /// Returns what `docker login` has kept for a registry. Blocks its thread.
    fn credentials(registry: &str) -> Result<RegistryAuth> {
        use docker_credential::CredentialRetrievalError as Error;
        match docker_credential::get_credential(registry) {
            Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
            Ok(DockerCredential::IdentityToken(token)) => Ok(RegistryAuth::Bearer(token)),
            Err(Error::ConfigNotFound | Error::NoCredentialConfigured | Error::ConfigReadError) => {
                Ok(RegistryAuth::Anonymous)
            }
            Err(error) => Err(error).context("the credentials in the configuration of Docker can't be used"),
        }
    }

    /// Returns whether a registry is on this machine.
    fn is_loopback(registry: &str) -> bool {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn registries_of_this_machine_are_spoken_to_without_tls_and_no_others() {
            for registry in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
                assert!(is_loopback(registry), "{registry}");
            }
            for registry in ["ghcr.io", "localhost.example", "10.0.0.1:5000", "127.0.0.1.example:80", "[::2]:5000"] {
                assert!(!is_loopback(registry), "{registry}");
            }
        }
    }
}

/// A program without a client of registries.
#[cfg(not(feature = "oci"))]
mod client {
    use std::fmt;

    use anyhow::Result;

    use super::Pulled;

    /// Reference that does not exist.
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    pub(super) enum Reference {}

    impl fmt::Display for Reference {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            match *self {}
        }
    }

    pub(super) fn reference(_: &str) -> Result<Reference, String> {
        Err("this program can't pull images: build it with --features oci, or give the file alone".into())
    }

    pub(super) async fn pull(image: &Reference, _: usize) -> Result<Pulled> {
        match *image {}
    }
}
