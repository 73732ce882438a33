//! The description of the API, and a page that shows it.

use axum::Extension;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, Ref, RefOr, Required};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::ProblemBody;

const ABOUT: &str = "Robots, orders and signals of a trading server that may be stopped at any instant.\n\n\
    - Every route but health and webhooks needs `Authorization: Bearer <token>`, or a signature by a key that signs. Roles: \
    viewer < trader < admin.\n\
    - Requests are counted by the minute. 429 says when the next one begins; cancels and stops have a budget of their own.\n\
    - Decimals are strings (`\"0.01\"`), times are microseconds since the Unix epoch (`.._us`).\n\
    - Unknown fields are refused.\n\
    - A POST that changes an account takes the header `Idempotency-Key`. The same key gets the same answer, for ever, with \
    `Idempotent-Replayed: true`. After a 503 or a lost connection send the same request with the same key: it is done once. \
    A key is compared with what it first asked for, but for the time to live of a signal.\n\
    - Any instance takes any request. A command for an account that another instance trades is stored, and answered like any \
    other once its owner has decided. If that takes long, the answer is 202 with the outcome `pending`: it will be decided; \
    the same request with the same key asks what became of it.\n\
    - Errors are RFC 9457 problems.";

#[derive(OpenApi)]
#[openapi(
    info(title = "hotgo", description = ABOUT),
    components(schemas(ProblemBody)),
    security(("token" = []), ("signature" = [])),
    tags(
        (name = "health", description = "Whether the server lives, is ready, and how it stands"),
        (name = "signals", description = "Telling robots to trade"),
        (name = "robots", description = "Making, starting and stopping robots"),
        (name = "orders", description = "Orders and their fills"),
        (name = "accounts", description = "Accounts, balances, positions and their history"),
        (name = "instances", description = "The processes that trade on this database"),
        (name = "notices", description = "What users are told about releases"),
        (name = "shutdown", description = "Stopping the server"),
        (name = "keys", description = "API keys"),
    )
)]
struct Description;

const SIGNATURE: &str = "Of a key that was made with `signed`. Headers `X-Hotgo-Key` (its id), `X-Hotgo-Timestamp` \
    (milliseconds since the Unix epoch, at most 5 s from the server's), `X-Hotgo-Nonce` (16 to 64 letters, digits, `-`, `_`; \
    taken once: each attempt is signed anew) and this one: SHA-256(token) XOR HMAC-SHA-256(SHA-256(SHA-256(token)), message), in \
    lower-case hex. The message is the lines `HOTGO1`, method, path, query, Idempotency-Key, timestamp, nonce, SHA-256 of the \
    body in lower-case hex; absent ones empty, joined by a line feed. An example is in docs/security.md.";

/// Tags whose POSTs take an idempotency key.
const WITH_KEY: [&str; 4] = ["signals", "robots", "orders", "accounts"];

pub(super) fn description() -> Document {
    Description::openapi()
}

/// The document, as text.
#[derive(Clone)]
pub(super) struct Text(Bytes);

/// Adds to every operation what all have in common: refusals, and the idempotency key.
pub(super) fn finish(mut document: Document) -> Text {
    let components = document.components.get_or_insert_default();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API key's token")).build();
    components.add_security_scheme("token", SecurityScheme::Http(scheme));
    let signature = ApiKeyValue::with_description("X-Hotgo-Signature", SIGNATURE);
    components.add_security_scheme("signature", SecurityScheme::ApiKey(ApiKey::Header(signature)));
    for (path, item) in &mut document.paths.paths {
        for (post, operation) in [(false, &mut item.get), (true, &mut item.post), (false, &mut item.delete)] {
            if let Some(operation) = operation {
                add_problems(path, post, operation);
            }
        }
    }
    Text(serde_json::to_vec(&document).unwrap_or_default().into())
}

fn add_problems(path: &str, post: bool, operation: &mut Operation) {
    if path.starts_with("/api/health") {
        return;
    }
    let webhook = path.starts_with("/api/webhook");
    let tagged = |tag: &str| operation.tags.iter().flatten().any(|it| it == tag);
    let with_key = post && !webhook && WITH_KEY.iter().any(|tag| tagged(tag));
    let mut refusals = vec![
        ("422", "A field makes no sense; it is named"),
        ("429", "Too many requests: see `Retry-After`"),
        ("503", "Not now: see `Retry-After`"),
    ];
    if !webhook {
        refusals.push(("401", "No valid token or signature"));
    }
    if post {
        refusals.extend([("400", "Not JSON"), ("413", "The body is too large"), ("415", "Not declared as JSON")]);
        if !webhook {
            refusals.push(("403", "The key's role is too low"));
        }
    }
    if path.contains('{') {
        refusals.push(("404", "There is no such thing"));
    }
    if with_key || webhook {
        refusals.push(("409", "Refused by a risk rule"));
    }
    for (status, words) in refusals {
        let response = ResponseBuilder::new().description(words).build();
        operation.responses.responses.entry(status.to_owned()).or_insert(RefOr::T(response));
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && (status.starts_with('4') || status.starts_with('5'))
        {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            response.content.insert("application/problem+json".into(), RefOr::T(content));
        }
    }
    if with_key {
        operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
    }
}

fn idempotency_key() -> Parameter {
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("Your name for this request: 1 to 128 visible ASCII characters. Made for you if absent."))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S> {
    OpenApiRouter::new().routes(routes!(document))
}

/// This description
#[utoipa::path(get, path = "/api/openapi.json", tag = "health", responses(
    (status = 200, description = "OpenAPI", body = Object, content_type = "application/json"),
))]
async fn document(Extension(Text(text)): Extension<Text>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

/// The page and its parts: static, public, and holding nothing secret.
pub(super) fn page<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/api/docs", get(async || asset("text/html; charset=utf-8", include_str!("docs/index.html"))))
        .route("/api/docs/docs.js", get(async || asset("text/javascript; charset=utf-8", include_str!("docs/docs.js"))))
        .route("/api/docs/docs.css", get(async || asset("text/css; charset=utf-8", include_str!("docs/docs.css"))))
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
        base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    (headers, text).into_response()
}
