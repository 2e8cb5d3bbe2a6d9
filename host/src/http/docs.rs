//! Page that shows the API and tries it: Swagger UI, whose files are within the program.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    body::Bytes,
    extract::{OriginalUri, Path},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use sha2::{Digest as _, Sha256};
use utoipa_swagger_ui::{Config, SwaggerFile, serve};

use super::not_found;
use crate::hex::hex;

/// Sources that the page may use: its own, images within its style sheet, and the one style sheet that its script makes.
/// No other page may show it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; \
                      style-src 'self' 'sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w='; img-src 'self' data:; font-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Names of the files that the page uses. The crate has more, such as a page for OAuth redirects.
const NAMES: [&str; 8] = [
    "",
    "index.css",
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-initializer.js",
    "favicon-16x16.png",
    "favicon-32x32.png",
];

/// Settings of the page. The description is that of the path under which the page is: a tenant's, or a router's in
/// which this one is nested. Credentials are forgotten with the page, and no validator of another host is asked.
static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    let config = Config::new(["../openapi.json"]).persist_authorization(false).try_it_out_enabled(true);
    Arc::new(config.validator_url("none").display_request_duration(true))
});

/// Files of the page, prepared once. Answers share their bytes: the script has 1.5 MB, and a copy for each client that
/// reads slowly would exceed the memory that connections may take before any credential.
static FILES: LazyLock<Vec<File>> = LazyLock::new(|| NAMES.into_iter().filter_map(File::prepare).collect());

/// File of the page.
struct File {
    name: &'static str,
    bytes: Bytes,
    content_type: HeaderValue,
    /// Digest of the bytes: another build has the same tag only for the same file.
    tag: HeaderValue,
}

impl File {
    /// Returns a file as the crate has it, or logs that it is unusable.
    fn prepare(name: &'static str) -> Option<Self> {
        let SwaggerFile { bytes, content_type, .. } = match serve(name, CONFIG.clone()) {
            Ok(file) => file?,
            Err(error) => {
                tracing::error!(name, reason = %error, "file of the API page failed");
                return None;
            }
        };
        let digest = hex(&Sha256::digest(&bytes));
        let bytes = match bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        };
        let tag = HeaderValue::try_from(format!("\"{digest}\"")).ok()?;
        Some(Self { name, bytes, content_type: HeaderValue::try_from(content_type).ok()?, tag })
    }

    /// Returns whether the client has this file already (RFC 9110, section 13.1.2).
    fn is_known(&self, headers: &HeaderMap) -> bool {
        let tags = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        // A proxy that compresses makes a tag weak.
        let mut tags = tags.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
        tags.any(|tag| tag == "*" || self.tag == tag)
    }
}

/// Returns the routes of the page, and the way to it from the root.
pub(super) fn routes() -> Router {
    Router::new()
        .route("/", get(async |OriginalUri(uri): OriginalUri| redirect(&uri, "docs/")))
        .route("/docs", get(async |OriginalUri(uri): OriginalUri| redirect(&uri, "")))
        .route("/docs/", get(async |uri: Uri, headers: HeaderMap| file("", &uri, &headers)))
        .route(
            "/docs/{file}",
            get(async |Path(name): Path<String>, uri: Uri, headers: HeaderMap| file(&name, &uri, &headers)),
        )
}

/// Redirects to a path below the one that the client has used, by a relative address: a proxy may have shortened the
/// path.
fn redirect(uri: &Uri, below: &str) -> Response {
    let last = uri.path().rsplit('/').next().unwrap_or_default();
    // Without `./`, a last part such as `https:example.org` would be an address of its own (RFC 3986, section 4.2).
    let to = if last.is_empty() { below.to_owned() } else { format!("./{last}/{below}") };
    Redirect::temporary(&to).into_response()
}

/// Returns a file of the page.
fn file(name: &str, uri: &Uri, headers: &HeaderMap) -> Response {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        return not_found(uri).into_response();
    };
    let fixed: [(HeaderName, HeaderValue); 5] = [
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (ETAG, file.tag.clone()),
    ];
    if file.is_known(headers) {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    (fixed, [(CONTENT_TYPE, file.content_type.clone())], file.bytes.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use axum::http::header::LOCATION;

    use super::*;

    #[test]
    fn a_redirect_is_relative_to_the_path_that_the_client_has_used() -> Result<(), Box<dyn std::error::Error>> {
        for (path, below, expected) in [
            ("/", "docs/", "docs/"),
            ("/acme", "docs/", "./acme/docs/"),
            ("/acme/", "docs/", "docs/"),
            ("/docs", "", "./docs/"),
            ("/tenants/acme/docs", "", "./docs/"),
            ("/https:example.org", "docs/", "./https:example.org/docs/"),
        ] {
            let response = redirect(&path.parse()?, below);
            assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
            assert_eq!(response.headers().get(LOCATION).ok_or("no address")?, expected, "{path}");
        }
        Ok(())
    }
    #[test]
    fn every_file_is_there_and_has_a_tag_of_its_own() {
        assert_eq!(FILES.iter().map(|file| file.name).collect::<Vec<_>>(), NAMES);
        let tags: HashSet<_> = FILES.iter().map(|file| &file.tag).collect();
        assert_eq!(tags.len(), NAMES.len());
    }

    #[tokio::test]
    async fn answers_share_the_bytes_of_a_file() -> Result<(), Box<dyn std::error::Error>> {
        for kept in FILES.iter() {
            let answer = file(kept.name, &Uri::from_static("/docs/"), &HeaderMap::new());
            let sent = axum::body::to_bytes(answer.into_body(), usize::MAX).await?;
            assert_eq!((sent.as_ptr(), sent.len()), (kept.bytes.as_ptr(), kept.bytes.len()), "{}", kept.name);
        }
        Ok(())
    }

    #[test]
    fn a_client_that_has_the_file_is_not_sent_it_again() -> Result<(), Box<dyn std::error::Error>> {
        let tag = FILES.first().ok_or("no file")?.tag.to_str()?;
        for (sent, status) in [
            (tag.to_owned(), 304),
            (format!("W/{tag}"), 304),
            (format!("\"other\", {tag}"), 304),
            ("*".to_owned(), 304),
            ("\"other\"".to_owned(), 200),
        ] {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::try_from(&sent)?)]);
            assert_eq!(file("", &Uri::from_static("/docs/"), &headers).status(), status, "{sent}");
        }
        Ok(())
    }
}
