//! Refunds, as Stripe's events tell of them.
//!
//! The mirror keeps what is known of refunds and of the payments that they give back; the rows follow from it, whichever came
//! first. A payment says in its metadata for which organization it was taken. Where no event has told, Stripe is asked, if it can be.

use uuid::Uuid;

use crate::error::Result;
use crate::id::{Id, OrganizationId};
use crate::refunds::{self, Charge, News};
use crate::stripe::StripeObject;
use crate::sync::apply::EventOutcome;
use crate::sync::effects::Effects;
use crate::sync::mirror::{self, Lock, Payment, Refund, Register as _, RemoteObject};
use crate::sync::stripe::translate::{self, Refunded};
use crate::sync::stripe::{Given, attribution};

/// Applies an event about refunds of one payment.
pub(super) async fn apply(effects: &mut Effects<'_>, given: &Given<'_>, said: &Refunded) -> Result<EventOutcome> {
    mirror::lock(effects.tx, [Lock::Object(said.payment.clone())]).await?;
    let mut payment = mirror::load_one::<Payment>(effects.tx, &said.payment).await?;
    let fetched = given
        .context
        .fetched
        .and_then(|fetched| translate::fetched_payment(&said.payment, given.event.moment(), fetched));
    // Metadata may have been added since Stripe was asked: another event is a reason to ask again.
    let is_answered =
        payment.fields.charge.version().is_some_and(|at| at.authority > 0 && at.moment >= given.event.moment());
    let named = said.charge.iter().filter_map(|said| said.fields.charge.known()).chain(payment.fields.charge.known());
    let is_told = fetched.is_some() || is_answered || named.into_iter().any(|charge| charge.merchant.is_some());
    if !is_told && given.context.can_refetch {
        return Ok(EventOutcome::Refetch(StripeObject::PaymentIntent(said.payment.clone())));
    }
    let changes: Vec<_> = said.charge.iter().cloned().chain(fetched).collect();
    mirror::merge_all(effects.tx, &mut payment, &changes).await?;
    let mut known = mirror::naming::<Refund>(effects.tx, std::slice::from_ref(&said.payment)).await?;
    for change in &said.refunds {
        let known_at = known.iter().position(|refund| refund.id == change.id);
        let at = if let Some(at) = known_at {
            at
        } else {
            known.push(mirror::load_one::<Refund>(effects.tx, &change.id).await?);
            known.len() - 1
        };
        mirror::merge(effects.tx, &mut known[at], change).await?;
    }
    let owner = owner(effects, payment.fields.charge.known()).await?;
    let mut organization = owner;
    for refund in &known {
        organization = organization.or(follow(effects, refund, owner, payment.fields.charge.known()).await?);
    }
    if let Some(organization) = organization {
        let ids: Vec<String> = known.into_iter().map(|refund| refund.id).collect();
        give(effects, &ids, organization).await?;
    }
    Ok(EventOutcome::applied(organization))
}

/// The organization that a payment was taken for.
async fn owner(effects: &mut Effects<'_>, charge: Option<&Charge>) -> Result<Option<OrganizationId>> {
    let Some(name) = charge.and_then(|charge| charge.merchant.as_deref()) else { return Ok(None) };
    let ours = OrganizationId::parse(name).map(Id::uuid).or_else(|_| Uuid::try_parse(name)).ok();
    Ok(sqlx::query_scalar!(
        r#"select id as "id: OrganizationId" from tenantry.organizations where (id = $1 or clerk_org_id = $2) and purged_at is null"#,
        ours,
        name
    )
    .fetch_optional(effects.tx.conn())
    .await?)
}

/// Brings the row of a refund up to what is known of it; gives the organization whose it is. A refund that carries our name is that
/// organization's, if it has such a row, also where the payment is not known.
async fn follow(
    effects: &mut Effects<'_>,
    refund: &RemoteObject<Refund>,
    owner: Option<OrganizationId>,
    charge: Option<&Charge>,
) -> Result<Option<OrganizationId>> {
    let Some(remote) = refund.fields.said.known() else { return Ok(None) };
    let news = News { clock: effects.clock, event: Some(&effects.cause) };
    let named = remote.reference.as_ref().map(|reference| reference.organization).filter(|named| Some(*named) != owner);
    if let Some(organization) = owner {
        refunds::record(effects.tx, news, organization, remote, charge).await?;
    } else if let Some(organization) = named {
        let row = refunds::record(effects.tx, news, organization, remote, None).await?;
        return Ok(row.map(|_| organization));
    }
    Ok(owner)
}

/// Shows the events about these refunds to the organization, also those that came before it was known whose they are.
async fn give(effects: &mut Effects<'_>, refunds: &[String], organization: OrganizationId) -> Result<()> {
    let of_entitlements = vec![false; refunds.len()];
    let organizations = vec![Some(organization.uuid()); refunds.len()];
    attribution::update_inbox(effects, refunds, &of_entitlements, &organizations, &vec![None; refunds.len()]).await
}
