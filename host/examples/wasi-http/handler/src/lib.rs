//! Handler of `POST /api/workspaces` for hosts of `wasi:http`: checks the credential by `session`, has the component create
//! the workspace, and answers as the host of this repository does.

#[cfg(target_family = "wasm")]
mod component {
    #![allow(unsafe_code, reason = "the exports of the canonical ABI")]
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]

    use std::collections::HashMap;

    use serde::{Deserialize, Serialize, de::IgnoredAny};
    use wasip2::{
        exports::wasi::http::incoming_handler::Guest,
        http::types::{
            Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
        },
        io::streams::StreamError,
    };

    wit_bindgen::generate!({
        world: "recoup:session/handler",
        path: ["../../../../wit", "../wit"],
        generate_all,
    });

    use recoup::{
        session::session,
        workspaces::workspaces::{CreateWorkspaceError, CreateWorkspaceRequest, Workspace, create_workspace},
    };

    /// Maximum size of a body, in bytes.
    const MAX_BODY: usize = 64 << 10;

    struct Handler;
    wasip2::http::proxy::export!(Handler);

    impl Guest for Handler {
        fn handle(request: IncomingRequest, response: ResponseOutparam) {
            let (status, headers, body) = match answer(&request) {
                Ok(workspace) => (201, &[][..], serde_json::to_vec(&Created { workspace: workspace.into() })),
                Err(Refusal { status, headers, message }) => {
                    (status, headers, serde_json::to_vec(&Refused { error: status, message: &message }))
                }
            };
            // Both are text and numbers, which JSON can hold.
            let body = body.unwrap_or_default();
            send(response, status, headers, &body);
        }
    }

    /// Answer in place of a workspace.
    struct Refusal {
        status: u16,
        headers: &'static [(&'static str, &'static str)],
        message: String,
    }

    fn refused(status: u16, message: impl Into<String>) -> Refusal {
        let headers: &[_] = match status {
            401 => &[("www-authenticate", "Bearer")],
            405 => &[("allow", "POST")],
            503 => &[("retry-after", "1")],
            _ => &[],
        };
        Refusal { status, headers, message: message.into() }
    }

    fn answer(request: &IncomingRequest) -> Result<Workspace, Refusal> {
        let path = request.path_with_query().unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        if path != "/api/workspaces" {
            return Err(refused(404, format!("There is nothing at {path}")));
        }
        if !matches!(request.method(), Method::Post) {
            return Err(refused(405, "This method is not possible here: use one that the Allow header names"));
        }
        let headers = request.headers();
        let credential = match headers.get("x-api-key").as_slice() {
            [one] => String::from_utf8(one.clone()).map_err(|_| refused(401, "x-api-key holds no API key"))?,
            _ => return Err(refused(401, "Send one API key in the x-api-key header")),
        };
        session::begin(&credential).map_err(|error| match error {
            session::Error::UnknownCredential => refused(401, "The API key is not valid: send one that is known here"),
            session::Error::Unavailable => refused(503, "The service can't answer now: try again later"),
        })?;
        let is_json = |value: &Vec<u8>| {
            let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default();
            media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
        };
        let is_identity = |value: &Vec<u8>| value.eq_ignore_ascii_case(b"identity");
        if !headers.get("content-type").iter().all(is_json) || !headers.get("content-encoding").iter().all(is_identity)
        {
            return Err(refused(415, "Send the body as Content-Type: application/json, without Content-Encoding"));
        }
        let request: Body = serde_json::from_slice(&read(request)?)
            .map_err(|error| refused(400, format!("The body is not the JSON of a request: {error}")))?;
        let Body { name, account_id, organization_id, .. } = request;
        let created = create_workspace(&CreateWorkspaceRequest { name, account_id, organization_id });
        created.map(|response| response.workspace).map_err(|error| match error {
            CreateWorkspaceError::InvalidRequest(message) => refused(400, message),
            CreateWorkspaceError::Unauthenticated(message) => refused(401, message),
            CreateWorkspaceError::Forbidden(message) => refused(403, message),
            CreateWorkspaceError::Unavailable(message) => refused(503, message),
            CreateWorkspaceError::Unknown(message) => refused(500, message),
        })
    }

    fn read(request: &IncomingRequest) -> Result<Vec<u8>, Refusal> {
        let incomplete = || refused(400, "The body ended early: send all of it");
        let body = request.consume().map_err(|()| incomplete())?;
        let stream = body.stream().map_err(|()| incomplete())?;
        let mut bytes = Vec::new();
        loop {
            match stream.blocking_read(MAX_BODY as u64) {
                Ok(more) => bytes.extend(more),
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(_)) => return Err(incomplete()),
            }
            if bytes.len() > MAX_BODY {
                return Err(refused(413, format!("The body is over {MAX_BODY} bytes: send less")));
            }
        }
        drop(stream);
        IncomingBody::finish(body);
        Ok(bytes)
    }

    /// Sends an answer. Where the client is gone nobody reads it, and nothing is left to do.
    fn send(response: ResponseOutparam, status: u16, headers: &[(&str, &str)], mut body: &[u8]) {
        let fields = Fields::new();
        let length = body.len().to_string();
        for (name, value) in [("content-type", "application/json"), ("content-length", &length)].iter().chain(headers) {
            let _ = fields.append(name, value.as_bytes());
        }
        let outgoing = OutgoingResponse::new(fields);
        let _ = outgoing.set_status_code(status);
        let Ok(outgoing_body) = outgoing.body() else { return };
        ResponseOutparam::set(response, Ok(outgoing));
        let Ok(stream) = outgoing_body.write() else { return };
        // As much as a stream takes in one call.
        while let Some((part, rest)) = body.split_at_checked(body.len().min(4096)).filter(|(part, _)| !part.is_empty())
        {
            if stream.blocking_write_and_flush(part).is_err() {
                return;
            }
            body = rest;
        }
        drop(stream);
        let _ = OutgoingBody::finish(outgoing_body, None);
    }

    /// Body of a request.
    #[derive(Deserialize)]
    struct Body {
        name: Option<String>,
        account_id: Option<String>,
        organization_id: Option<String>,
        /// Fields that are ignored. With them no array is taken for an object.
        #[serde(flatten)]
        _others: HashMap<String, IgnoredAny>,
    }

    #[derive(Serialize)]
    struct Created {
        workspace: WorkspaceFields,
    }

    #[derive(Serialize)]
    struct WorkspaceFields {
        id: String,
        name: String,
        account_id: String,
        #[serde(rename = "isWorkspace")]
        is_workspace: bool,
    }

    impl From<Workspace> for WorkspaceFields {
        fn from(Workspace { id, name, account_id, is_workspace }: Workspace) -> Self {
            Self { id, name, account_id, is_workspace }
        }
    }

    #[derive(Serialize)]
    struct Refused<'a> {
        error: u16,
        message: &'a str,
    }
}
