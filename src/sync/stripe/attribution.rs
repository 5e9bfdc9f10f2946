//! Gives events and audit rows to organizations.
//!
//! An event belongs to the organization that its object belongs to, whenever that becomes known and whichever event tells.
//! So administrators see the same events in any order of arrival, and an invoice that came before its owner was known is
//! in the owner's audit log all the same, once.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::billing::save_invoice;
use crate::error::{Error, Result};
use crate::events::{self, Event};
use crate::id::{Id, OrganizationId, SubscriptionId};
use crate::sync::apply::EventOutcome;
use crate::sync::effects::Effects;
use crate::sync::mirror::{self, Attribution, Invoice, Latest, Lock, RemoteChange, RemoteObject};
use crate::sync::payload::fingerprint;
use crate::sync::stripe::billing::{self, Findings};
use crate::sync::stripe::owners::BillingGraph;

/// What an invoice says while its organization is not known.
const OF_NOBODY: &str = "waits: nothing names the organization of its customer";

/// Applies an event about an invoice. It is written to the audit log of its organization, once; where that is not known,
/// as soon as it is.
pub(super) async fn invoice(effects: &mut Effects<'_>, change: &RemoteChange<Invoice>) -> Result<EventOutcome> {
    let named = [change.fields.customer.text(), change.fields.subscription.text(), Some(&change.id)];
    mirror::lock(effects.tx, named.into_iter().flatten().map(|id| Lock::Object(id.to_owned()))).await?;
    let mut invoice = mirror::load_one::<Invoice>(effects.tx, &change.id).await?;
    mirror::merge(effects.tx, &mut invoice, change).await?;
    let Some(customer) = invoice.fields.customer.text() else { return Ok(EventOutcome::applied(None)) };
    let (graph, _) = billing::settle(effects, &BTreeSet::from([customer.to_owned()]), None).await?;
    let organization = graph.owner(customer, invoice.fields.subscription.text());
    if let Some(organization) = organization {
        record(effects, organization, &mut invoice).await?;
        save(effects, organization, &invoice).await?;
    }
    let finding = organization.is_none().then(|| OF_NOBODY.to_owned());
    Ok(EventOutcome::Applied { organization, finding })
}

/// What keeps an invoice from being paid.
const PROBLEMS: &[&str] = &[
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "invoice.finalization_failed",
    "invoice.marked_uncollectible",
];

/// Writes the row of an invoice of an organization, and tells those who follow its subscription.
async fn save(effects: &mut Effects<'_>, organization: OrganizationId, invoice: &RemoteObject<Invoice>) -> Result<()> {
    let Some(said) = invoice.fields.said.known() else { return Ok(()) };
    let since = invoice.fields.happened.first_moment(|happened| PROBLEMS.contains(&happened.action.as_str()));
    let names = (invoice.id.as_str(), invoice.fields.subscription.text());
    if !save_invoice(effects.tx, effects.clock, organization, names, said, since).await? {
        return Ok(());
    }
    let subscription = sqlx::query_scalar!(
        r#"select id as "id: SubscriptionId" from tenantry.subscriptions where organization_id = $1"#,
        organization as _
    )
    .fetch_optional(effects.tx.conn())
    .await?;
    let told: Vec<_> = subscription.into_iter().map(|id| (organization, Event::of(id))).collect();
    events::tell(effects.tx, &told).await
}

/// Writes what happened to an invoice to the audit log of its organization, as far as no audit log has it.
async fn record(
    effects: &mut Effects<'_>,
    organization: OrganizationId,
    invoice: &mut RemoteObject<Invoice>,
) -> Result<()> {
    let happened = invoice.fields.happened.in_order();
    let new: Vec<_> = happened.into_iter().filter(|(event, _)| invoice.fields.recorded.of(event).is_none()).collect();
    if new.is_empty() {
        return Ok(());
    }
    let cause = effects.cause.clone();
    let mut recorded = Vec::new();
    for (event, happened) in new {
        event.clone_into(&mut effects.cause);
        let resource = ("Organization", organization.uuid());
        effects.record(organization, happened.action.clone(), resource, happened.metadata.clone()).await?;
        recorded.push(event.to_owned());
    }
    effects.cause = cause;
    for event in recorded {
        invoice.fields.recorded.note(&event, true);
    }
    mirror::keep(effects.tx, invoice).await
}

/// Gives the events about these customers to the organizations that their objects belong to, with what is found of them.
/// Nothing is written for customers for whom all of that is as it was. Who holds the locks of the organizations may call
/// it; events that another worker is applying get theirs from it.
pub(super) async fn attribute(effects: &mut Effects<'_>, graphs: &[BillingGraph], findings: &Findings) -> Result<()> {
    let mut belongings = BTreeMap::new();
    for (graph, of_graph) in graphs.iter().map(|graph| (graph, graph.belongings())) {
        for (customer, objects) in of_graph {
            belongings.entry(customer).or_insert((graph, objects));
        }
    }
    let customers: Vec<String> = belongings.keys().map(|customer| (*customer).to_owned()).collect();
    let mut changed = BTreeSet::new();
    let known = mirror::load::<Attribution>(effects.tx, &customers).await?;
    for ((customer, (_, objects)), mut known) in belongings.iter().zip(known) {
        let found: Vec<_> =
            objects.iter().map(|(id, organization)| (id, organization.map(Id::uuid), findings.get(*id))).collect();
        let digest = fingerprint(&serde_json::to_string(&found).map_err(Error::internal)?);
        // What was given to nobody and still is.
        let nothing_new = known.is_blank() && objects.values().all(Option::is_none);
        if known.fields.digest.text() != Some(digest.as_str()) {
            known.fields.digest = Latest::note(Some(digest));
            mirror::keep(effects.tx, &known).await?;
            if !nothing_new {
                changed.insert(*customer);
            }
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let (mut ids, mut of_entitlements, mut organizations, mut texts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut give = |id: &str, entitlements: bool, organization: Option<OrganizationId>, finding: Option<&str>| {
        ids.push(id.to_owned());
        of_entitlements.push(entitlements);
        organizations.push(organization.map(Id::uuid));
        texts.push(finding.map(str::to_owned));
    };
    for customer in &changed {
        for (id, organization) in belongings.get(customer).map(|(_, objects)| objects).into_iter().flatten() {
            // The events about the customer, and those about its entitlements, which have no id of their own.
            let is_customer = id == customer;
            let finding = findings.get(*id).map(String::as_str);
            give(id, is_customer, *organization, finding);
            if is_customer {
                give(id, false, *organization, None);
            }
        }
    }
    let named: Vec<String> = changed.iter().map(|customer| (*customer).to_owned()).collect();
    for mut invoice in mirror::naming::<Invoice>(effects.tx, &named).await? {
        let customer = invoice.fields.customer.text().filter(|customer| changed.contains(customer));
        let Some((customer, (graph, _))) = customer.and_then(|customer| Some((customer, belongings.get(customer)?)))
        else {
            continue;
        };
        let organization = graph.owner(customer, invoice.fields.subscription.text());
        give(&invoice.id, false, organization, organization.is_none().then_some(OF_NOBODY));
        if let Some(organization) = organization {
            record(effects, organization, &mut invoice).await?;
            save(effects, organization, &invoice).await?;
        }
    }
    update_inbox(effects, &ids, &of_entitlements, &organizations, &texts).await
}

pub(super) async fn update_inbox(
    effects: &mut Effects<'_>,
    ids: &[String],
    of_entitlements: &[bool],
    organizations: &[Option<Uuid>],
    findings: &[Option<String>],
) -> Result<()> {
    // Waiting events are left to those who apply them. A worker that looked for waiting events may also hold one that
    // was applied a moment ago, and wait for locks that are held here. So nothing is waited for: the attempt collides with
    // that worker's, and is made again.
    sqlx::query!(
        "with given as materialized (
             select e.id, n.organization_id, case when e.status = 'APPLIED' then n.finding end as finding
               from unnest($1::text[], $2::uuid[], $3::text[], $4::boolean[]) as n (object_id, organization_id, finding, of_entitlements)
               join tenantry.webhook_events e on e.source = 'STRIPE' and e.object_id = n.object_id and e.status in ('APPLIED', 'IGNORED')
                    and starts_with(e.event_type, 'entitlements.') = n.of_entitlements
              where e.organization_id is distinct from n.organization_id
                 or e.finding is distinct from case when e.status = 'APPLIED' then n.finding end),
         held as materialized (
             select e.id from tenantry.webhook_events e where e.id in (select id from given) for update nowait)
         update tenantry.webhook_events e set organization_id = g.organization_id, finding = g.finding
           from given g join held using (id) where e.id = g.id",
        ids,
        organizations as _,
        findings as _,
        of_entitlements
    )
    .execute(effects.tx.conn())
    .await?;
    Ok(())
}
