//! Two customers who are one: what one has goes to the other.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::access::Action;
use crate::customers::graphql::CustomerMergeInput;
use crate::customers::no_such_customer;
use crate::events::{self, Event};
use crate::graphql::mutation::{Done, Mutation, UserErrorCode, VerbError, VerbResult, Work, check_version};
use crate::id::{CustomerId, TicketId, marker};

/// What deciding needs to know.
struct Locked {
    id: CustomerId,
    version: i32,
    lifetime_value_minor: i64,
    currency: String,
}

impl Mutation for CustomerMergeInput {
    type Row = marker::Customer;
    const FIELD: &'static str = "customerMerge";
    const ACTION: Action = Action::CustomerMerge;
    const AUDIT: &'static str = "customer.merge";

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    async fn run(self, work: &mut Work<'_>) -> VerbResult<Done<Self::Row>> {
        let (from, into) = (self.id, self.into_id);
        if from == into {
            let message = "A customer cannot be merged into themselves.";
            return Err(VerbError::user("intoId", UserErrorCode::Invalid, message));
        }
        let mut both = lock_both(work, from, into).await?;
        let ending = take(&mut both, from).ok_or_else(|| no_such_customer("id"))?;
        let staying = take(&mut both, into).ok_or_else(|| no_such_customer("intoId"))?;
        check_version(self.expected_version, ending.version)?;
        if ending.lifetime_value_minor != 0 && staying.lifetime_value_minor != 0 && ending.currency != staying.currency
        {
            let message = format!("The amounts paid are in {} and {}.", ending.currency, staying.currency);
            return Err(VerbError::user("intoId", UserErrorCode::CurrencyMismatch, message));
        }
        let moved = move_everything(work, from, into).await?;
        end(work, from, into).await?;
        let given = json!({ "mergedFrom": from.to_string(), "moved": moved, "version": staying.version + 1 });
        work.also("customer.take_in", into, given).await?;
        Ok(Done {
            id: from,
            audit: json!({
                "before": { "version": ending.version },
                "after": { "mergedInto": into.to_string(), "archivedAt": work.now, "version": ending.version + 1 },
                "moved": moved,
            }),
            event: Some(Event::of(from)),
        })
    }
}

fn take(both: &mut Vec<Locked>, id: CustomerId) -> Option<Locked> {
    both.iter().position(|row| row.id == id).map(|at| both.swap_remove(at))
}

/// Locks two customers in the order of their ids, so that merges in a circle do not wait for each other; then the tickets of the
/// one that ends. Customers before tickets: whoever names a customer for a ticket locks in this order as well.
async fn lock_both(work: &mut Work<'_>, from: CustomerId, into: CustomerId) -> VerbResult<Vec<Locked>> {
    let organization = work.tenant().organization_id;
    let mut locked = Vec::new();
    for id in if from.uuid() < into.uuid() { [from, into] } else { [into, from] } {
        let row = sqlx::query_as!(
            Locked,
            r#"select id as "id: CustomerId", version, lifetime_value_minor, currency from tenantry.customer_profiles
                where organization_id = $1 and id = $2 and deleted_at is null for no key update"#,
            organization as _,
            id as _
        )
        .fetch_optional(work.tx.conn())
        .await?;
        locked.extend(row);
    }
    sqlx::query!(
        "select id from tenantry.tickets where organization_id = $1 and customer_id = $2 order by id for update",
        organization as _,
        from as _
    )
    .fetch_all(work.tx.conn())
    .await?;
    Ok(locked)
}

/// Moves tickets, messages and refunds; says how many.
async fn move_everything(work: &mut Work<'_>, from: CustomerId, into: CustomerId) -> VerbResult<Value> {
    let organization = work.tenant().organization_id;
    let tickets: Vec<Uuid> = sqlx::query_scalar!(
        "update tenantry.tickets set customer_id = $3, version = version + 1 where organization_id = $1 and customer_id = $2 returning id",
        organization as _,
        from as _,
        into as _
    )
    .fetch_all(work.tx.conn())
    .await?;
    let messages = sqlx::query!(
        "update tenantry.ticket_messages set author_customer_id = $3 where organization_id = $1 and author_customer_id = $2",
        organization as _,
        from as _,
        into as _
    )
    .execute(work.tx.conn())
    .await?;
    let refunds = sqlx::query!(
        "update tenantry.refunds set customer_id = $3, version = version + 1 where organization_id = $1 and customer_id = $2",
        organization as _,
        from as _,
        into as _
    )
    .execute(work.tx.conn())
    .await?;
    let told = tickets.iter().map(|id| Event::of(TicketId::from_uuid(*id))).collect();
    events::tell_more(work.tx, told).await?;
    Ok(json!({ "tickets": tickets.len(), "messages": messages.rows_affected(), "refunds": refunds.rows_affected() }))
}

/// Fills what the one that stays has not, and archives the other. Of tier and standing the further one counts: a merge must not
/// clear somebody who is blocked.
async fn end(work: &mut Work<'_>, from: CustomerId, into: CustomerId) -> VerbResult<()> {
    let organization = work.tenant().organization_id;
    sqlx::query!(
        "update tenantry.customer_profiles i
            set phone = coalesce(i.phone, f.phone), company = coalesce(i.company, f.company),
                preferences = f.preferences || i.preferences, context = f.context || i.context,
                tier = greatest(i.tier, f.tier), standing = greatest(i.standing, f.standing),
                lifetime_value_minor = i.lifetime_value_minor + f.lifetime_value_minor,
                currency = case when i.lifetime_value_minor = 0 and f.lifetime_value_minor <> 0 then f.currency else i.currency end,
                version = i.version + 1
           from tenantry.customer_profiles f
          where i.organization_id = $1 and i.id = $3 and f.organization_id = $1 and f.id = $2",
        organization as _,
        from as _,
        into as _
    )
    .execute(work.tx.conn())
    .await?;
    // What was paid is counted once.
    sqlx::query!(
        "update tenantry.customer_profiles set merged_into_id = $3, deleted_at = $4, lifetime_value_minor = 0, version = version + 1
          where organization_id = $1 and id = $2",
        organization as _,
        from as _,
        into as _,
        work.now
    )
    .execute(work.tx.conn())
    .await?;
    sqlx::query!("select tenantry.move_customer_account($1, $2)", from as _, into as _).execute(work.tx.conn()).await?;
    Ok(())
}
