//! `viewer`, and the relations of users and members.

use async_graphql::{Context, Object};

use crate::access::{Action, MemberRole};
use crate::db::refuse;
use crate::error::{Error, Result};
use crate::graphql::session::Session;
use crate::members::{Invitation, OrganizationMember, User, ViewerMembership, ViewerRow, viewer, viewer_within};
use crate::relations;

/// The root field of the slice.
#[derive(Debug, Default)]
pub struct MembersQuery;

#[Object]
impl MembersQuery {
    /// The user of the token. Available before an organization is chosen.
    async fn viewer(&self, ctx: &Context<'_>) -> Result<Viewer> {
        let session = Session::of(ctx)?;
        let identity = session.identity()?;
        let bearer = identity.bearer();
        let row = match session.read().await {
            Ok(tx) => viewer_within(&tx, bearer).await?,
            // Before an organization is chosen, or without a membership in it.
            Err(Error::OrganizationRequired | Error::OrganizationNotFound | Error::OrganizationMismatch) => {
                viewer(&session.services().db, bearer).await?
            }
            Err(error) => return Err(error),
        };
        match row {
            Some(row) => Ok(Viewer { row, impersonator: identity.impersonator.clone() }),
            None => match refuse(&session.services().db, bearer).await {
                // They came between the two questions.
                Err(Error::OrganizationNotFound) => Err(Error::AccountNotReady),
                refused => refused,
            },
        }
    }
}

/// The user of the token.
#[derive(Debug)]
pub struct Viewer {
    row: ViewerRow,
    impersonator: Option<String>,
}

/// The user of the token.
#[Object]
impl Viewer {
    /// The user.
    async fn user(&self) -> &User {
        &self.row.user
    }

    /// The viewer's role in the organization of the request; null before one is chosen.
    async fn role(&self, ctx: &Context<'_>) -> Result<Option<MemberRole>> {
        match Session::of(ctx)?.tenant().await {
            Ok(tenant) => Ok(Some(tenant.role)),
            Err(Error::OrganizationRequired) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The identity provider's id of the impersonator; null when the user acts in person.
    async fn impersonator(&self) -> Option<&str> {
        self.impersonator.as_deref()
    }

    /// The actions that the viewer may take in the organization of the request; empty before one is chosen. Guarded
    /// actions are left out while somebody impersonates the user.
    async fn permissions(&self, ctx: &Context<'_>) -> Result<Vec<Action>> {
        let role = self.role(ctx).await?;
        let restricted = Session::of(ctx)?.is_restricted();
        let may =
            |action: &Action| role.is_some_and(|role| action.allows(role)) && !(restricted && action.is_guarded());
        Ok(Action::ALL.iter().copied().filter(may).collect())
    }

    /// Whether the viewer is a superadmin of the platform.
    async fn is_superadmin(&self) -> bool {
        self.row.is_superadmin
    }

    /// The viewer's memberships, whose organizations `X-Organization-Id` may name.
    async fn memberships(&self) -> &[ViewerMembership] {
        &self.row.memberships
    }
}

relations! {
    User {}

    /// The user's role in the organization of the request; null when the user has none.
    async fn role(&self, ctx: &Context<'_>) -> Result<Option<crate::members::UserRole>> {
        Session::of(ctx)?.loader(super::roles::UserRoles::new).try_load(self.id).await.map_err(Error::internal)?
    }
}

relations! {
    OrganizationMember {}
    one {
        /// The member's user.
        user -> User! by user_id;
    }
}

relations! {
    Invitation {}
    one {
        /// The user who sent it.
        invited_by -> User by invited_by;
    }
}
