//! Development only: who can be tried out, and tokens for them.
//!
//! The routes exist only when the development issuer does, which production never has. They answer requests for this
//! machine only: the `Host` must be a loopback name, so that a web page of somebody else cannot reach them by pointing
//! a name of its own here (DNS rebinding), and without CORS headers no other origin can read the answer.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router, routing::get};
use chrono::{Duration, SecondsFormat};
use serde::Deserialize;

use crate::auth::dev::{DevIssuer, IssueRequest, Persona};
use crate::error::Code;
use crate::http::{Edge, error};
use crate::members;

/// Who may be what on a development server.
pub struct DevLogin {
    /// Makes the tokens.
    pub issuer: DevIssuer,
    /// The people of the sample data.
    pub personas: &'static [Persona],
}

/// Both routes.
pub fn router(edge: Arc<Edge>) -> Router {
    Router::new().route("/dev/personas", get(personas)).route("/dev/token", get(token)).with_state(edge)
}

fn refuse_foreign_host(headers: &HeaderMap) -> Option<Response> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host });
    if matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        None
    } else {
        Some(error(
            StatusCode::FORBIDDEN,
            Code::Forbidden,
            "Development tokens are given to this machine only: open the page as http://127.0.0.1.",
        ))
    }
}

async fn personas(State(edge): State<Arc<Edge>>, headers: HeaderMap) -> Response {
    if let Some(refusal) = refuse_foreign_host(&headers) {
        return refusal;
    }
    let personas = edge.dev.as_ref().map_or(&[][..], |dev| dev.personas);
    let mut list = Vec::with_capacity(personas.len());
    for persona in personas {
        let Ok(Some(row)) = members::viewer(&edge.services.db, persona.subject).await else { continue };
        let organizations: Vec<_> = row
            .memberships
            .iter()
            .map(|m| serde_json::json!({ "slug": m.organization.slug, "name": m.organization.name, "role": m.role }))
            .collect();
        list.push(serde_json::json!({
            "email": persona.email, "name": persona.name, "description": persona.description, "organizations": organizations,
        }));
    }
    ([(header::CACHE_CONTROL, "no-store")], Json(list)).into_response()
}

#[derive(Deserialize)]
struct TokenQuery {
    user: String,
    org: Option<String>,
}

async fn token(State(edge): State<Arc<Edge>>, headers: HeaderMap, Query(query): Query<TokenQuery>) -> Response {
    if let Some(refusal) = refuse_foreign_host(&headers) {
        return refusal;
    }
    let Some(dev) = &edge.dev else {
        return error(StatusCode::NOT_FOUND, Code::NotFound, "Only the development server gives tokens.");
    };
    let Some(persona) = dev.personas.iter().find(|persona| persona.email == query.user) else {
        return error(StatusCode::NOT_FOUND, Code::NotFound, "There is no such persona; GET /dev/personas lists them.");
    };
    let row = match members::viewer(&edge.services.db, persona.subject).await {
        Ok(Some(row)) => row,
        Ok(None) => {
            return error(StatusCode::NOT_FOUND, Code::NotFound, "The sample data is not there: run `tenantry seed`.");
        }
        Err(failure) => return error(failure.status(), failure.code(), &failure.to_string()),
    };
    let organization = match query.org.as_deref().filter(|slug| !slug.is_empty()) {
        None => None,
        Some(slug) => match row.memberships.iter().find(|m| m.organization.slug == slug) {
            Some(membership) => Some(membership.organization.token_claim()),
            None => {
                return error(
                    StatusCode::NOT_FOUND,
                    Code::NotFound,
                    "The persona is not a member of that organization.",
                );
            }
        },
    };
    let now = edge.services.clock.now();
    let ttl = Duration::hours(1);
    let token = dev.issuer.issue(&IssueRequest {
        subject: persona.subject.to_owned(),
        impersonator: None,
        organization,
        ttl: Some(ttl),
        now,
    });
    match token {
        Ok(token) => {
            let expires_at = (now + ttl).to_rfc3339_opts(SecondsFormat::Secs, true);
            (
                [(header::CACHE_CONTROL, "no-store")],
                Json(serde_json::json!({ "token": token, "expiresAt": expires_at })),
            )
                .into_response()
        }
        Err(failure) => {
            tracing::error!(%failure, "no development token could be made");
            error(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "No token could be made; the log says why.")
        }
    }
}
