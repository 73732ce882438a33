//! Who may do what over HTTP, and the routes for API keys.

use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use trading::time::Timestamp;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::signature::{Signable, Signed};
use super::{Authenticator, Principal};
use crate::clock::Clock;
use crate::http::page::Page;
use crate::http::rate::Name;
use crate::http::{Json, Params, Problem, RateLimits, idempotency, peek_body, text};
use crate::store::{ApiKey, AuditEntry, Revocation, Role, Store};

/// Who is let in, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) rates: Arc<RateLimits>,
    pub(crate) clock: Clock,
}

/// Lets a request pass only with a valid token or signature, within its key's limits, and notes whose it is.
pub(crate) async fn authenticated(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    match door.let_in(&mut request).await {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(Problem::Unauthorized) => {
            let client = door.rates.client(request.extensions(), request.headers());
            door.rates.refused(client, Problem::Unauthorized).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

impl Door {
    async fn let_in(&self, request: &mut Request) -> Result<Principal, Problem> {
        let signed = signed(request.headers())?;
        let principal = match (&signed, bearer(request.headers())) {
            (None, Some(token)) => self.authenticator.authenticate(token).await?,
            (Some(signed), None) => self.verify(signed, request).await?,
            // One way in is enough; with both nobody knows which is meant.
            (None, None) | (Some(_), Some(_)) => return Err(Problem::Unauthorized),
        };
        let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        self.rates.admit(Name::of_key(&principal.key_id, route))?;
        // Last, so that no other refusal uses the nonce up.
        if let Some(signed) = signed
            && !self.authenticator.is_first_use(&signed).await?
        {
            tracing::debug!(key = %signed.key_id, "a signed request was refused: it is a replay, or the clocks disagree");
            return Err(Problem::Unauthorized);
        }
        Ok(principal)
    }

    async fn verify(&self, signed: &Signed, request: &mut Request) -> Result<Principal, Problem> {
        let body = peek_body(request).await?;
        let signable = Signable {
            method: request.method().as_str(),
            path: request.uri().path(),
            query: request.uri().query().unwrap_or_default(),
            idempotency_key: request.headers().get(idempotency::HEADER).map_or(&[], HeaderValue::as_bytes),
            body: &body,
        };
        Ok(self.authenticator.verify(signed, signable, self.clock.now()).await?)
    }
}

const SIGNATURE: [HeaderName; 4] = [
    HeaderName::from_static("x-hotgo-key"),
    HeaderName::from_static("x-hotgo-timestamp"),
    HeaderName::from_static("x-hotgo-nonce"),
    HeaderName::from_static("x-hotgo-signature"),
];

/// What a request's signature says; `None` if it has none. One of which a part is missing lets nobody in.
fn signed(headers: &HeaderMap) -> Result<Option<Signed>, Problem> {
    let values = SIGNATURE.map(|name| headers.get(name));
    if values.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [key, at, nonce, signature] = values.map(|value| value.and_then(|it| it.to_str().ok()).unwrap_or_default());
    Signed::parse(key, at, nonce, signature).map(Some).ok_or(Problem::Unauthorized)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

macro_rules! role_extractor {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub(crate) struct $name(pub(crate) Principal);

        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
                let principal = parts.extensions.get::<Principal>().cloned().ok_or(Problem::Unauthorized)?;
                if principal.role < Role::$name {
                    return Err(Problem::Forbidden { needs: Role::$name, has: principal.role });
                }
                Ok(Self(principal))
            }
        }
    };
}
role_extractor! {
    /// Somebody who may trade. Stands before the body in a handler's arguments: who may not, is told so first.
    Trader
}
role_extractor! {
    /// Somebody who may do everything.
    Admin
}

/// What the routes need.
#[derive(Debug, Clone)]
pub(crate) struct KeysState {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
}

pub(crate) fn routes<S: Clone + Send + Sync + 'static>(state: KeysState) -> OpenApiRouter<S> {
    OpenApiRouter::new()
        .routes(routes!(keys, create_key))
        .routes(routes!(who_am_i))
        .routes(routes!(revoke_key))
        .with_state(state)
}

/// What a credential may do. Each includes the one before it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Role)]
enum RoleWire {
    /// Look.
    Viewer,
    /// Trade.
    Trader,
    /// Everything, shutdown included.
    Admin,
}

impl From<RoleWire> for Role {
    fn from(role: RoleWire) -> Self {
        match role {
            RoleWire::Viewer => Self::Viewer,
            RoleWire::Trader => Self::Trader,
            RoleWire::Admin => Self::Admin,
        }
    }
}

impl From<Role> for RoleWire {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Trader => Self::Trader,
            Role::Admin => Self::Admin,
        }
    }
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewKeyIn {
    /// What people call it: 1 to 64 characters.
    #[schema(example = "tradingview bridge")]
    name: String,
    role: RoleWire,
    /// Whether it signs its requests instead of sending its token: see the description of the security scheme `signature`.
    #[serde(default)]
    signed: bool,
}

/// A key that was just made.
#[derive(Serialize, ToSchema)]
struct NewKeyOut {
    /// Names it in logs and audit: not a secret.
    id: String,
    name: String,
    role: RoleWire,
    signed: bool,
    created_at_us: i64,
    /// What to send as `Authorization: Bearer <token>`, or, of a key that signs, what to sign with and never to send. It is shown this once and kept nowhere.
    #[schema(example = "hg_6b1f..")]
    token: String,
}

/// Make an API key
///
/// Role admin. The token is shown once. Sending this again makes another key.
#[utoipa::path(post, path = "/api/keys", tag = "keys", request_body = NewKeyIn, responses(
    (status = 201, description = "Made", body = NewKeyOut),
))]
async fn create_key(
    State(state): State<KeysState>,
    Admin(caller): Admin,
    Json(body): Json<NewKeyIn>,
) -> Result<Response, Problem> {
    text("name", &body.name, 64)?;
    let now = state.clock.now();
    let (name, role) = (&body.name, body.role.into());
    let made = if body.signed {
        state.authenticator.create_signing_key(name, role, now).await?
    } else {
        state.authenticator.create_key(name, role, now).await?
    };
    let entry = AuditEntry {
        at: now,
        actor: caller.key_id.to_string(),
        act: "key.create".into(),
        target: format!("{} ({:?})", made.key.id, made.key.role),
    };
    // An unaudited key must not be used: without its token it cannot be.
    state.store.append_audit(&entry).await?;
    let out = NewKeyOut {
        id: made.key.id,
        name: made.key.name,
        role: made.key.role.into(),
        signed: made.key.signed,
        created_at_us: made.key.created_at.micros(),
        token: made.token.into_text(),
    };
    Ok((StatusCode::CREATED, axum::Json(out)).into_response())
}

/// A key, without anything that would let one in.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
struct KeyOut {
    /// Names it in logs and audit: not a secret.
    id: String,
    name: String,
    role: RoleWire,
    /// Whether it signs its requests.
    signed: bool,
    created_at_us: i64,
    /// When it was revoked.
    revoked_at_us: Option<i64>,
}

impl From<ApiKey> for KeyOut {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            role: key.role.into(),
            signed: key.signed,
            created_at_us: key.created_at.micros(),
            revoked_at_us: key.revoked_at.map(Timestamp::micros),
        }
    }
}

/// All API keys, oldest first
///
/// Role admin. Revoked ones are listed too.
#[utoipa::path(get, path = "/api/keys", tag = "keys", responses(
    (status = 200, description = "They", body = Page<KeyOut>),
    (status = 403, description = "The key's role is too low"),
))]
async fn keys(State(state): State<KeysState>, Admin(_caller): Admin) -> Result<axum::Json<Page<KeyOut>>, Problem> {
    Ok(axum::Json(Page::whole(state.store.api_keys().await?)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct KeyPath {
    /// The key.
    #[param(example = "6b1f0a2c3d4e5f60")]
    id: String,
}

/// Revoke an API key
///
/// Role admin. Requests with it are refused from now on; its websockets are closed at their next ping. Sending this again
/// changes nothing. The last key with the role admin stays.
#[utoipa::path(delete, path = "/api/keys/{id}", tag = "keys", params(KeyPath), responses(
    (status = 204, description = "Revoked"),
    (status = 403, description = "The key's role is too low"),
    (status = 409, description = "It is the last admin key"),
))]
async fn revoke_key(
    State(state): State<KeysState>,
    Admin(caller): Admin,
    Params(path): Params<KeyPath>,
) -> Result<StatusCode, Problem> {
    let now = state.clock.now();
    match state.store.revoke_api_key(&path.id, now).await? {
        Revocation::Revoked => {}
        Revocation::NotFound => return Err(Problem::NotFound("API key".into())),
        Revocation::LastAdmin => return Err(Problem::LastAdminKey),
    }
    let actor = caller.key_id.to_string();
    state.store.append_audit(&AuditEntry { at: now, actor, act: "key.revoke".into(), target: path.id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The key behind a token.
#[derive(Serialize, ToSchema)]
struct WhoAmI {
    /// Names it in logs and audit: not a secret.
    id: String,
    name: String,
    role: RoleWire,
}

/// Which key this is
#[utoipa::path(get, path = "/api/keys/self", tag = "keys", responses((status = 200, description = "It", body = WhoAmI)))]
async fn who_am_i(axum::Extension(caller): axum::Extension<Principal>) -> axum::Json<WhoAmI> {
    axum::Json(WhoAmI { id: caller.key_id.to_string(), name: caller.name.to_string(), role: caller.role.into() })
}
