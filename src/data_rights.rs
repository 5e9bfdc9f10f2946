//! What is known of one person, out of all tables, and its erasure: `tenantry person` (GDPR, articles 15, 17 and 20).
//!
//! A person is a user of the platform, with the customer profiles that are linked to them, or one customer of one organization.
//! An export reads every table that refers to them, as the catalogue knows it, at one moment. An erasure goes step by step in small
//! transactions and finds nothing twice, so that one that was interrupted is begun again and ends; the row by which the person is
//! found comes last.
//!
//! What stays is what an organization must be able to show: that somebody, without a name, did what the audit log says. The log
//! holds states and ids, no names and no texts.

use std::io::{self, Write};

use futures_util::TryStreamExt as _;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Error;
use crate::events::{self, Event};
use crate::id::{CustomerId, Id, OrganizationId, UserId};
use crate::sql_text::{literal, quote};
use crate::trail::{self, AuditEntry};

/// Rows that are erased in one transaction.
const BATCH: i64 = 1000;
/// What stands where a text was.
const ERASED: &str = "Erased";
/// Columns that no export has: what opens something.
const SECRETS: &str = "array['key_hash', 'token_hash', 'mail_token_hash']";
/// What the log of an organization calls an erasure.
const ACTION: &str = "person.erase";

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// The database could not do it.
    #[error(transparent)]
    Database(#[from] Error),
    /// The file could not be written.
    #[error("the file: {0}")]
    File(#[from] io::Error),
    /// It would not be right; the text says why, and what to do.
    #[error("{0}")]
    Refused(String),
}

impl From<sqlx::Error> for RightsError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

type Result<T> = std::result::Result<T, RightsError>;

/// Whom it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Person {
    /// A user of the platform.
    User(User),
    /// A customer of an organization.
    Customer(OrganizationId, CustomerId),
}

/// A user of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    /// The identity provider's id.
    pub subject: String,
    pub email: Option<String>,
}

/// How to erase.
#[derive(Clone, Copy, Debug, Default)]
pub struct Erasure {
    /// Leaves what was written in the tickets of a customer.
    pub keeps_conversations: bool,
    /// Does not ask whether the identity provider still has the user.
    pub ignores_provider: bool,
    /// Only counts.
    pub is_rehearsal: bool,
}

/// What was erased, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Rows by what they are.
    pub steps: Vec<(String, u64)>,
    /// What this does not cover, and who has to look at it.
    pub left: Vec<String>,
}

impl Erased {
    /// Rows of all steps.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.steps.iter().map(|(_, rows)| rows).sum()
    }
}

/// Finds a user by our id, the identity provider's, or the address if it is one user's.
///
/// # Errors
/// [`RightsError::Refused`] when there is none, or more than one.
pub async fn find_user(db: &Db, name: &str) -> Result<Person> {
    let ours = UserId::parse(name).map(Id::uuid).or_else(|_| Uuid::try_parse(name)).ok();
    let mut tx = SystemTx::begin(db).await?;
    let found = sqlx::query!(
        r#"select id as "id: UserId", clerk_id, email from tenantry.users
            where id = $1 or clerk_id = $2 or lower(email) = lower($2) order by id limit 3"#,
        ours,
        name
    )
    .fetch_all(tx.conn())
    .await?;
    match found.as_slice() {
        [row] => Ok(Person::User(User { id: row.id, subject: row.clerk_id.clone(), email: row.email.clone() })),
        [] => Err(RightsError::Refused("there is no such user".to_owned())),
        several => {
            let ids: Vec<String> = several.iter().map(|row| row.id.to_string()).collect();
            Err(RightsError::Refused(format!(
                "more than one user has this address: name one by id: {}",
                ids.join(", ")
            )))
        }
    }
}

/// Finds a customer of an organization by our id or the address.
///
/// # Errors
/// [`RightsError::Refused`] when there is none, or more than one.
pub async fn find_customer(db: &Db, organization: OrganizationId, name: &str) -> Result<Person> {
    let ours = CustomerId::parse(name).map(Id::uuid).or_else(|_| Uuid::try_parse(name)).ok();
    let mut tx = SystemTx::begin(db).await?;
    // A profile that went into another is a part of that one.
    let found = sqlx::query_scalar!(
        r#"with recursive found as (
               select c.id, c.merged_into_id from tenantry.customer_profiles c
                where c.organization_id = $1 and (c.id = $2 or lower(c.email) = lower($3))
                union
               select c.id, c.merged_into_id from tenantry.customer_profiles c join found f on c.organization_id = $1 and c.id = f.merged_into_id)
           select id as "id!: CustomerId" from found where merged_into_id is null order by id limit 3"#,
        organization as _,
        ours,
        name
    )
    .fetch_all(tx.conn())
    .await?;
    match found.as_slice() {
        [id] => Ok(Person::Customer(organization, *id)),
        [] => Err(RightsError::Refused("there is no such customer in this organization".to_owned())),
        _ => Err(RightsError::Refused("more than one customer has this address: name one by id".to_owned())),
    }
}

fn is(id: Uuid) -> String {
    format!("'{id}'::uuid")
}

/// The condition that one of these columns names a row.
fn named_in(id: &str, columns: &[String]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| format!("t.{}", quote(column))).collect();
    format!("{id} in ({})", columns.join(", "))
}

/// The tickets of a customer, whose ids are SQL already.
fn tickets_of(organization: &str, customer: &str) -> String {
    format!(
        "(select i.id from tenantry.tickets i where i.organization_id = {organization} and i.customer_id = {customer})"
    )
}

/// The columns of all tables that refer to the rows of one.
async fn referring(tx: &mut SystemTx, to: &str) -> Result<Vec<(String, Vec<String>)>> {
    let rows = sqlx::query(
        "select c.relname::text, array_agg(distinct a.attname::text order by a.attname::text)
           from pg_constraint f join pg_class c on c.oid = f.conrelid and not c.relispartition
           cross join unnest(f.conkey, f.confkey) as k (own, theirs)
           join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.own
           join pg_attribute r on r.attrelid = f.confrelid and r.attnum = k.theirs and r.attname = 'id'
          where f.contype = 'f' and f.confrelid = to_regclass($1) and c.relnamespace = 'tenantry'::regnamespace
          group by 1 order by 1",
    )
    .bind(format!("tenantry.{to}"))
    .fetch_all(tx.conn())
    .await?;
    let read = |row: &sqlx::postgres::PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
    Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
}

/// The condition for the events and objects of the sync that are about a user.
fn about(user: &User, text: &str) -> String {
    let named = |name: &str| format!("position({} in {text}) > 0", literal(name));
    let quoted = |name: &str| format!("position(lower({}) in lower({text})) > 0", literal(&format!("\"{name}\"")));
    let email = user.email.as_deref().map(|email| format!(" or {}", quoted(email))).unwrap_or_default();
    format!("({}{email})", named(&user.subject))
}

/// What the body of an event says, as text.
const BODY: &str = "tenantry.body_text(t.raw_body)";

/// The tables and conditions of a person's rows, in the order in which they are told.
async fn sources(tx: &mut SystemTx, person: &Person) -> Result<Vec<(String, String)>> {
    let mut sources = Vec::new();
    let mut customers = Vec::new();
    match person {
        Person::User(user) => {
            let id = is(user.id.uuid());
            sources.push(("users".to_owned(), format!("t.id = {id}")));
            for (table, columns) in referring(tx, "users").await? {
                sources.push((table, named_in(&id, &columns)));
            }
            let written = format!(
                "(t.organization_id, t.message_id) in (
                    select m.organization_id, m.id from tenantry.ticket_messages m where m.author_user_id = {id})"
            );
            sources.push(("ticket_message_revisions".to_owned(), written));
            if let Some(email) = &user.email {
                sources.push((
                    "invitations".to_owned(),
                    format!("lower(t.email) = lower({}) and t.invited_by is distinct from {id}", literal(email)),
                ));
            }
            let objects = about(user, "t.fields::text");
            let subject = literal(&user.subject);
            sources.push((
                "sync_objects".to_owned(),
                format!("t.source = 'CLERK' and (t.object_id = {subject} or t.refs @> array[{subject}] or {objects})"),
            ));
            sources.push(("webhook_events".to_owned(), format!("t.source = 'CLERK' and {}", about(user, BODY))));
            customers = linked(tx, user.id).await?;
            let absent = format!(
                "(t.organization_id, t.representative_id) in (
                    select r.organization_id, r.id from tenantry.representatives r where r.user_id = {id})"
            );
            sources.push(("representative_absences".to_owned(), absent));
        }
        Person::Customer(organization, id) => customers.push((*organization, *id)),
    }
    // Those that are linked to a user are told with what refers to users.
    let is_told =
        |customer: &(OrganizationId, CustomerId)| matches!(person, Person::User(_)) && customers.contains(customer);
    let of_customers = referring(tx, "customer_profiles").await?;
    for customer in with_merged(tx, customers.clone()).await? {
        let (organization, id) = (is(customer.0.uuid()), is(customer.1.uuid()));
        if !is_told(&customer) {
            sources
                .push(("customer_profiles".to_owned(), format!("t.organization_id = {organization} and t.id = {id}")));
        }
        let tickets = tickets_of(&organization, &id);
        for (table, columns) in &of_customers {
            // The messages of a customer's tickets are told whole, below, and the profiles that went into this one are among these.
            if table != "ticket_messages" && table != "customer_profiles" {
                let of_them = format!("t.organization_id = {organization} and {}", named_in(&id, columns));
                sources.push((table.clone(), of_them));
            }
        }
        for table in ["ticket_messages", "escalations"] {
            sources
                .push((table.to_owned(), format!("t.organization_id = {organization} and t.ticket_id in {tickets}")));
        }
        let of_them = format!(
            "t.organization_id = {organization} and t.message_id in (
                select m.id from tenantry.ticket_messages m where m.organization_id = {organization} and m.ticket_id in {tickets})"
        );
        sources.push(("ticket_message_revisions".to_owned(), of_them));
    }
    Ok(sources)
}

async fn linked(tx: &mut SystemTx, user: UserId) -> Result<Vec<(OrganizationId, CustomerId)>> {
    let rows = sqlx::query!(
        r#"select organization_id as "organization_id: OrganizationId", id as "id: CustomerId"
             from tenantry.customer_profiles where user_id = $1 order by 1, 2"#,
        user as _
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (row.organization_id, row.id)).collect())
}

/// These customers, and those whose profiles went into theirs.
async fn with_merged(
    tx: &mut SystemTx,
    customers: Vec<(OrganizationId, CustomerId)>,
) -> Result<Vec<(OrganizationId, CustomerId)>> {
    let mut all = customers;
    let mut at = 0;
    while let Some((organization, id)) = all.get(at).copied() {
        let merged = sqlx::query_scalar!(
            r#"select id as "id: CustomerId" from tenantry.customer_profiles where organization_id = $1 and merged_into_id = $2 order by id"#,
            organization as _,
            id as _
        )
        .fetch_all(tx.conn())
        .await?;
        for id in merged {
            // A user may be linked to one that was merged as well.
            if !all.contains(&(organization, id)) {
                all.push((organization, id));
            }
        }
        at += 1;
    }
    Ok(all)
}

/// Writes what is known of a person at this moment: a line of JSON for each row, `{"table": …, "row": …}`. Says how many.
///
/// # Errors
/// The database could not be read, or `out` not be written.
pub async fn export(db: &Db, person: &Person, out: &mut (impl Write + Send)) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    sqlx::raw_sql("set transaction isolation level repeatable read read only").execute(tx.conn()).await?;
    tx.without_limit().await?;
    let mut rows = 0;
    for (table, of_them) in sources(&mut tx, person).await? {
        let body = if table == "webhook_events" {
            format!(" - 'raw_body' || jsonb_build_object('raw_body', {BODY})")
        } else {
            String::new()
        };
        let sql = format!(
            "select jsonb_build_object('table', {}, 'row', to_jsonb(t) - {SECRETS}{body})::text from tenantry.{} t where {of_them}",
            literal(&table),
            quote(&table)
        );
        let mut found = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch(tx.conn());
        while let Some(row) = found.try_next().await? {
            writeln!(out, "{row}")?;
            rows += 1;
        }
    }
    out.flush()?;
    Ok(rows)
}

/// A step of an erasure: what becomes of those rows of a table that it has not become of yet.
struct Step {
    table: &'static str,
    /// What is set; `None`: the rows are removed.
    set: Option<String>,
    of_them: String,
}

fn steps_of_user(user: &User) -> Vec<Step> {
    let (id, subject) = (is(user.id.uuid()), literal(&user.subject));
    let mut steps = Vec::new();
    if let Some(email) = &user.email {
        let of_them = format!("lower(t.email) = lower({})", literal(email));
        steps.push(Step { table: "invitations", set: None, of_them });
    }
    steps.push(Step {
        table: "webhook_events",
        set: Some("raw_body = '{}'".to_owned()),
        of_them: format!(
            "t.source = 'CLERK' and t.raw_body <> '{{}}' and t.status not in ('RECEIVED', 'FAILED') and {}",
            about(user, BODY)
        ),
    });
    steps.push(Step {
        table: "sync_objects",
        set: Some("fields = '{}', refs = '{}', deleted_at = coalesce(t.deleted_at, now())".to_owned()),
        of_them: format!(
            "t.source = 'CLERK' and t.fields <> '{{}}' and (t.kind = 'user' and t.object_id = {subject} or t.kind = 'invitation' and {})",
            about(user, "t.fields::text")
        ),
    });
    for table in ["membership_requests", "ticket_watchers", "escalation_notices"] {
        steps.push(Step { table, set: None, of_them: format!("t.user_id = {id}") });
    }
    // A rule that names nobody else goes; the others name them no more.
    let of_them = format!("t.user_id = {id} and t.role is null and t.assignee_id is null");
    steps.push(Step { table: "escalation_rules", set: None, of_them });
    let set = Some("user_id = null, version = t.version + 1".to_owned());
    steps.push(Step { table: "escalation_rules", set, of_them: format!("t.user_id = {id}") });
    let of_them = format!(
        "(t.organization_id, t.representative_id) in (select r.organization_id, r.id from tenantry.representatives r where r.user_id = {id})"
    );
    steps.push(Step { table: "representative_absences", set: None, of_them });
    // Shared ones are the organization's: they name no person.
    let of_them = format!("t.user_id = {id} and not t.is_shared");
    steps.push(Step { table: "ticket_views", set: None, of_them });
    steps
}

/// What lets a user in; these steps come first, and at once.
fn access_of(user: &User) -> Vec<Step> {
    let of_them = format!("t.user_id = {} and t.deleted_at is null", is(user.id.uuid()));
    let step = |table| Step { table, set: Some("deleted_at = now()".to_owned()), of_them: of_them.clone() };
    vec![step("organization_members"), step("representatives")]
}

fn steps_of_customer(organization: OrganizationId, id: CustomerId, erasure: Erasure) -> Vec<Step> {
    let (organization, id) = (is(organization.uuid()), is(id.uuid()));
    let tickets = tickets_of(&organization, &id);
    let mut steps = Vec::new();
    if !erasure.keeps_conversations {
        steps.push(Step {
            table: "ticket_messages",
            set: Some(format!("body = '{ERASED}'")),
            of_them: format!(
                "t.organization_id = {organization} and (t.ticket_id in {tickets} or t.author_customer_id = {id}) and t.body not in ('{ERASED}', '')"
            ),
        });
        steps.push(Step {
            table: "ticket_message_revisions",
            set: Some(format!("body = '{ERASED}'")),
            of_them: format!(
                "t.organization_id = {organization} and t.body <> '{ERASED}' and t.message_id in (
                    select m.id from tenantry.ticket_messages m where m.organization_id = {organization}
                       and (m.ticket_id in {tickets} or m.author_customer_id = {id}))"
            ),
        });
        steps.push(Step {
            table: "escalations",
            set: Some("note = null, resolution = null, version = t.version + 1".to_owned()),
            of_them: format!(
                "t.organization_id = {organization} and t.ticket_id in {tickets} and (t.note is not null or t.resolution is not null)"
            ),
        });
        steps.push(Step {
            table: "refunds",
            set: Some(
                "note = null, decision_note = null, payment_reference = null, version = t.version + 1".to_owned(),
            ),
            of_them: format!(
                "t.organization_id = {organization} and t.customer_id = {id}
                    and num_nonnulls(t.note, t.decision_note, t.payment_reference) > 0"
            ),
        });
        steps.push(Step {
            table: "tickets",
            set: Some(format!(
                "subject = '{ERASED}', description = '{ERASED}', custom_fields = '{{}}', version = t.version + 1"
            )),
            of_them: format!(
                "t.organization_id = {organization} and t.customer_id = {id}
                    and (t.subject, t.description, t.custom_fields) is distinct from ('{ERASED}', '{ERASED}', '{{}}'::jsonb)"
            ),
        });
    }
    let address = "'erased-' || replace(t.id::text, '-', '') || '@erased.invalid'";
    steps.push(Step {
        table: "customer_profiles",
        set: Some(format!(
            "email = {address}, name = '{ERASED}', phone = null, company = null, preferences = '{{}}', context = '{{}}',
             user_id = null, deleted_at = coalesce(t.deleted_at, now()), version = t.version + 1"
        )),
        of_them: format!("t.organization_id = {organization} and t.id = {id} and t.email <> {address}"),
    });
    steps
}

impl Step {
    async fn count(&self, tx: &mut SystemTx) -> Result<u64> {
        let sql = format!("select count(*) from tenantry.{} t where {}", self.table, self.of_them);
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(tx.conn()).await?;
        Ok(u64::try_from(rows).unwrap_or_default())
    }

    async fn run(&self, db: &Db) -> Result<u64> {
        let Self { table, set, of_them } = self;
        let some = format!("t.ctid in (select t.ctid from tenantry.{table} t where {of_them} limit {BATCH})");
        let sql = match set {
            Some(set) => format!("update tenantry.{table} t set {set} where {some}"),
            None => format!("delete from tenantry.{table} t where {some}"),
        };
        let mut all = 0;
        loop {
            let mut tx = SystemTx::begin(db).await?;
            tx.without_limit().await?;
            let done = sqlx::query(AssertSqlSafe(sql.as_str())).execute(tx.conn()).await?.rows_affected();
            tx.commit().await?;
            all += done;
            if i64::try_from(done).is_ok_and(|done| done < BATCH) {
                return Ok(all);
            }
        }
    }
}

/// Refuses what would leave an organization without an owner, or bring the person back with their next event.
async fn refuse_what_comes_back(tx: &mut SystemTx, user: &User, erasure: Erasure) -> Result<()> {
    let refused = |text: String| Err(RightsError::Refused(text));
    let row = sqlx::query!(
        r#"select u.is_superadmin, (u.deleted_at is null and exists (select from tenantry.sync_objects s
                  where s.source = 'CLERK' and s.kind = 'user' and s.object_id = u.clerk_id and s.deleted_at is null)) as "is_at_provider!"
             from tenantry.users u where u.id = $1"#,
        user.id as _
    )
    .fetch_one(tx.conn())
    .await?;
    if row.is_superadmin {
        return refused("this user is a superadmin of the platform: take that from them first".to_owned());
    }
    if row.is_at_provider && !erasure.ignores_provider {
        return refused(
            "the identity provider has not deleted this user: delete them there first, or their next event brings their data back \
             (--ignore-provider erases all the same)"
                .to_owned(),
        );
    }
    let of_them = format!("t.source = 'CLERK' and t.status in ('RECEIVED', 'FAILED') and {}", about(user, BODY));
    let sql = format!("select count(*) from tenantry.webhook_events t where {of_them}");
    let waiting: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(tx.conn()).await?;
    if waiting > 0 {
        return refused(format!(
            "{waiting} events about this user wait to be applied: let the workers apply them first (`tenantry webhooks list --waiting`)"
        ));
    }
    let alone = sqlx::query!(
        r#"select o.slug, o.is_personal, (select count(*) from tenantry.organization_members m
                   where m.organization_id = o.id and m.deleted_at is null) as "members!",
                  exists (select from tenantry.subscriptions s where s.organization_id = o.id and s.stripe_subscription_id is not null
                             and s.status not in ('CANCELED', 'INCOMPLETE_EXPIRED')) as "is_paid_for!"
             from tenantry.organizations o join tenantry.organization_members own on own.organization_id = o.id
            where own.user_id = $1 and own.role = 'OWNER' and own.deleted_at is null and o.deleted_at is null
              and not exists (select from tenantry.organization_members m join tenantry.users u on u.id = m.user_id and u.deleted_at is null
                               where m.organization_id = o.id and m.role = 'OWNER' and m.deleted_at is null and m.user_id <> $1)"#,
        user.id as _
    )
    .fetch_all(tx.conn())
    .await?;
    // A workspace with nobody else in it goes with its user.
    let kept: Vec<String> = alone
        .into_iter()
        .filter(|row| !row.is_personal || row.members > 1 || row.is_paid_for)
        .map(|row| row.slug)
        .collect();
    if kept.is_empty() {
        return Ok(());
    }
    refused(format!(
        "this user is the only owner of {}: hand these over (organizationOwnershipTransfer) or delete them first",
        kept.join(", ")
    ))
}

/// Ends the access of a user and their workspace, in the transaction that has found that they may go: nobody becomes the only
/// owner meanwhile. Says how many rows of which table.
async fn end_access(tx: &mut SystemTx, clock: &Clock, user: &User) -> Result<Vec<(String, u64)>> {
    let mut ended = Vec::new();
    for Step { table, set, of_them } in access_of(user) {
        let sql = format!("update tenantry.{table} t set {} where {of_them}", set.unwrap_or_default());
        ended.push((table.to_owned(), sqlx::query(AssertSqlSafe(sql)).execute(tx.conn()).await?.rows_affected()));
    }
    sqlx::query!(
        "update tenantry.users set deleted_at = coalesce(deleted_at, $2) where id = $1",
        user.id as _,
        clock.now()
    )
    .execute(tx.conn())
    .await?;
    let workspaces = sqlx::query_scalar!(
        r#"update tenantry.organizations o set deleted_at = $2, purge_at = $2
            where o.is_personal and o.deleted_at is null
              and exists (select from tenantry.organization_members m where m.organization_id = o.id and m.user_id = $1 and m.role = 'OWNER')
              and not exists (select from tenantry.organization_members m where m.organization_id = o.id and m.deleted_at is null)
           returning o.id as "id: OrganizationId""#,
        user.id as _,
        clock.now()
    )
    .fetch_all(tx.conn())
    .await?;
    for workspace in workspaces {
        let entry = AuditEntry::of("organization.delete", workspace, json!({ "cause": ACTION }));
        trail::record_of_system(tx, clock, workspace, &entry).await?;
    }
    let access: Vec<_> =
        organizations_of(tx, user).await?.into_iter().map(|id| (id, Event::access(Some(user.id)))).collect();
    events::tell(tx, &access).await?;
    Ok(ended)
}

/// The organizations that a user is or was in, locked: whoever changes their members waits.
async fn organizations_of(tx: &mut SystemTx, user: &User) -> Result<Vec<OrganizationId>> {
    Ok(sqlx::query_scalar!(
        r#"select o.id as "id: OrganizationId" from tenantry.organizations o
            where o.id in (select m.organization_id from tenantry.organization_members m where m.user_id = $1) order by o.id for update"#,
        user.id as _
    )
    .fetch_all(tx.conn())
    .await?)
}

/// Ends the user's row, with a row in every log that is concerned.
async fn end_user(db: &Db, clock: &Clock, user: &User, rows: u64) -> Result<u64> {
    let mut tx = SystemTx::begin(db).await?;
    let organizations = organizations_of(&mut tx, user).await?;
    let done = sqlx::query!(
        "update tenantry.users set name = tenantry.neutral_name(clerk_id), email = null, verified_email = null, avatar_url = null,
                current_organization_id = null, deleted_at = coalesce(deleted_at, $2), erased_at = $2
          where id = $1 and erased_at is null",
        user.id as _,
        clock.now()
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if done == 0 {
        return Ok(0);
    }
    for organization in &organizations {
        trail::record_of_system(&mut tx, clock, *organization, &AuditEntry::of(ACTION, user.id, json!({}))).await?;
    }
    record(&mut tx, clock, json!({ "user": user.id.to_string(), "rows": rows + done })).await?;
    tx.commit().await?;
    Ok(done)
}

/// The platform's own log has every erasure, of whomever.
async fn record(tx: &mut SystemTx, clock: &Clock, metadata: Value) -> Result<()> {
    sqlx::query!(
        "insert into tenantry.platform_audit_logs (id, action, metadata, created_at) values ($1, $2, $3, $4)",
        Id::<()>::new(clock) as _,
        ACTION,
        metadata,
        clock.now()
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What names the person and is not erased here.
async fn left(tx: &mut SystemTx, person: &Person) -> Result<Vec<String>> {
    let mut left = Vec::new();
    if let Person::User(user) = person {
        let messages: i64 =
            sqlx::query_scalar("select count(*) from tenantry.ticket_messages where author_user_id = $1")
                .bind(user.id)
                .fetch_one(tx.conn())
                .await?;
        if messages > 0 {
            left.push(format!(
                "{messages} messages that they wrote as a member stay with their organizations, without a name"
            ));
        }
        if let Some(email) = &user.email {
            let others: Vec<String> = sqlx::query_scalar(
                "select o.slug || ': ' || c.id from tenantry.customer_profiles c join tenantry.organizations o on o.id = c.organization_id
                  where lower(c.email) = lower($1) and c.user_id is distinct from $2 order by 1",
            )
            .bind(email)
            .bind(user.id)
            .fetch_all(tx.conn())
            .await?;
            left.extend(others.iter().map(|other| {
                format!("a customer with the same address, who is the organization's to erase ({other})")
            }));
        }
    }
    let own: Vec<String> = sqlx::query_scalar(
        "select distinct f.conrelid::regclass::text from pg_constraint f join pg_class c on c.oid = f.conrelid
          where f.contype = 'f' and f.confrelid in ('tenantry.users'::regclass, 'tenantry.customer_profiles'::regclass)
            and c.relnamespace <> 'tenantry'::regnamespace order by 1",
    )
    .fetch_all(tx.conn())
    .await?;
    left.extend(own.iter().map(|table| format!("the table {table}, which is your own")));
    Ok(left)
}

/// Erases a person, or counts what would be erased.
///
/// # Errors
/// [`RightsError::Refused`] while they own an organization alone, or their data would come back.
pub async fn erase(db: &Db, clock: &Clock, person: &Person, erasure: Erasure) -> Result<Erased> {
    let mut tx = SystemTx::begin(db).await?;
    tx.without_limit().await?;
    let mut erased = Erased { steps: Vec::new(), left: left(&mut tx, person).await? };
    let (mut steps, customers) = match person {
        Person::User(user) => (steps_of_user(user), linked(&mut tx, user.id).await?),
        Person::Customer(organization, id) => (Vec::new(), vec![(*organization, *id)]),
    };
    for (organization, id) in with_merged(&mut tx, customers).await? {
        steps.extend(steps_of_customer(organization, id, erasure));
    }
    if erasure.is_rehearsal {
        if let Person::User(user) = person {
            refuse_what_comes_back(&mut tx, user, erasure).await?;
            steps.splice(0..0, access_of(user));
        }
        for step in &steps {
            erased.steps.push((step.table.to_owned(), step.count(&mut tx).await?));
        }
        return Ok(erased);
    }
    if let Person::User(user) = person {
        organizations_of(&mut tx, user).await?;
        refuse_what_comes_back(&mut tx, user, erasure).await?;
        erased.steps = end_access(&mut tx, clock, user).await?;
    }
    tx.commit().await?;
    for step in &steps {
        erased.steps.push((step.table.to_owned(), step.run(db).await?));
    }
    match person {
        Person::User(user) => {
            let done = end_user(db, clock, user, erased.rows()).await?;
            erased.steps.push(("users".to_owned(), done));
        }
        Person::Customer(organization, id) if erased.rows() > 0 => {
            let mut tx = SystemTx::begin(db).await?;
            trail::record_of_system(&mut tx, clock, *organization, &AuditEntry::of(ACTION, *id, json!({}))).await?;
            let metadata =
                json!({ "customer": id.to_string(), "organization": organization.to_string(), "rows": erased.rows() });
            record(&mut tx, clock, metadata).await?;
            tx.commit().await?;
        }
        Person::Customer(..) => {}
    }
    Ok(erased)
}
