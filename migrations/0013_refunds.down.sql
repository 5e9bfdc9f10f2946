drop index tenantry.refunds_stripe_payment_intent_id_idx;
alter table tenantry.refunds
    drop column needs_another_approver,
    drop column decision_note,
    drop column reservation_id,
    drop column payment_reference,
    drop column charge_minor,
    drop column attempt,
    drop column tries,
    drop column sent_at,
    drop column next_attempt_at,
    drop constraint refunds_customer_check,
    drop constraint refunds_settled_check,
    alter column status set default 'REQUESTED';
-- The owner sees no rows of tenants.
set local role tenantry_superadmin;
delete from tenantry.refunds where customer_id is null;
reset role;
alter table tenantry.refunds
    drop column made_in_stripe,
    alter column customer_id set not null;
comment on column tenantry.refunds.customer_id is null;
alter table tenantry.organizations
    drop column refund_four_eyes_minor,
    drop column refund_four_eyes_currency;
