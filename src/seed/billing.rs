//! Invoices, and what was asked of Stripe.

use uuid::Uuid;

use super::Writer;
use crate::error::Result;

/// Of an organization that subscribes; the user is an owner.
pub(super) async fn rows(w: &mut Writer<'_>, organization: Uuid, user: Uuid) -> Result<()> {
    let query = sqlx::query(
        "insert into tenantry.invoices (organization_id, id, stripe_invoice_id, stripe_subscription_id, number, status, currency, total_minor,
                due_minor, paid_minor, remaining_minor, period_start, period_end, attempts, hosted_url, created_at, updated_at)
         select $1, i.id, 'in_sample_' || o.slug || '_' || i.n, 'sub_sample_' || o.slug, 'SAMPLE-000' || i.n, 'PAID', 'USD', 4900, 4900, 4900, 0,
                $4 - make_interval(days => 30 * i.n), $4 - make_interval(days => 30 * (i.n - 1)), 1,
                'https://invoice.stripe.com/i/sample_' || i.n, $4 - make_interval(days => 30 * i.n), $4 - make_interval(days => 30 * i.n)
           from tenantry.organizations o cross join (values ($2::uuid, 2), ($3::uuid, 1)) as i (id, n) where o.id = $1",
    )
    .bind(organization)
    .bind(w.id())
    .bind(w.id())
    .bind(w.now);
    w.insert("invoices", query).await?;
    let query = sqlx::query(
        r#"insert into tenantry.billing_actions (organization_id, id, kind, status, requested_by, request, fingerprint, tries, stripe_id, url,
                expires_at, finished_at, created_at, updated_at)
           select $1, $2, 'CHECKOUT', 'DONE', $3, '{"path": "/checkout/sessions", "form": []}', sha256(o.slug::bytea), 1, 'cs_sample_' || o.slug,
                  'https://checkout.stripe.com/c/pay/cs_sample_' || o.slug, $4 - interval '89 days', $4 - interval '90 days',
                  $4 - interval '90 days', $4 - interval '90 days'
             from tenantry.organizations o where o.id = $1"#,
    )
    .bind(organization)
    .bind(w.id())
    .bind(user)
    .bind(w.now);
    w.insert("billing_actions", query).await
}
