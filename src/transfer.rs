//! One organization out of the shared schema into a file, and from a file into a database: `tenantry tenant`.
//!
//! The file is text: a line of JSON that says what it is, then for each table a line of JSON, its rows as `COPY` writes them, `\.`,
//! and a line of JSON with their number and SHA-256; at the end a line that says so. Rows stream: neither side holds a table.
//!
//! Invariants: an export is of one moment; an import happens whole or not at all, into an organization that was not there; every
//! section is checked by number and hash when it is read, and again as the database holds it afterwards. A file names tables and
//! columns, and only what the catalogue knows by these names is written to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Write};

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::clock::Clock;
use crate::db::{Db, SystemTx};
use crate::error::Error;
use crate::hex::hex;
use crate::id::OrganizationId;
use crate::sql_text::quote;
use crate::trail::{self, AuditEntry};

/// What the first line calls the format.
const FORMAT: &str = "tenantry-tenant/1";
/// Bytes that are sent to the database at once.
const CHUNK: usize = 64 * 1024;
/// Tables of an organization that are no data of its own: what is yet to be sealed, what programs asked for, what subscribers are told, the memory of mutations, deliveries (the
/// other database has its own), what triggers derive from tickets, and the state of adoptions.
const LEFT_OUT: &str = "'api_spending', 'api_usage', 'audit_unsealed', 'event_log', 'feature_flag_usage', 'idempotency_keys', 'meter_outbox', 'metric_marks', 'seat_marks', 'webhook_events', 'ticket_documents', 'ticket_field_values', 'ticket_tags'";
/// What a copy beside its original does not have: what opens or pays for one of the two, and the history of the other.
const NOT_CLONED: &[&str] = &[
    "api_keys",
    "client_keys",
    "invitations",
    "subscriptions",
    "billing_actions",
    "invoices",
    "entitlement_grants",
    "audit_logs",
    "audit_seals",
    "audit_horizons",
    "support_accesses",
    "organization_domains",
    "membership_requests",
];
/// The columns of a user that go along. Whoever operates one platform does not operate the other.
const USER_COLUMNS: &[&str] = &["id", "clerk_id", "email", "name", "avatar_url", "created_at", "updated_at"];

/// Why an organization was not transferred.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The database could not do it.
    #[error(transparent)]
    Database(#[from] Error),
    /// The file could not be read or written.
    #[error("the file: {0}")]
    File(#[from] io::Error),
    /// It would not be right; the text says why, and what to do.
    #[error("{0}")]
    Refused(String),
}

impl From<sqlx::Error> for TransferError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(refused) if refused.is_unique_violation() => {
                let constraint = refused.constraint().unwrap_or_default();
                Self::Refused(format!(
                    "something of it is in this database already: {constraint}. Nothing was written."
                ))
            }
            sqlx::Error::Database(refused) if refused.is_foreign_key_violation() || refused.is_check_violation() => {
                Self::Refused(format!("the file does not fit together: {}. Nothing was written.", refused.message()))
            }
            sqlx::Error::Database(refused) if refused.code().is_some_and(|code| code.starts_with("22")) => {
                Self::Refused(format!("the file is damaged: {}. Nothing was written.", refused.message()))
            }
            _ => Self::Database(error.into()),
        }
    }
}

type Result<T> = std::result::Result<T, TransferError>;

fn refused<T>(message: impl Into<String>) -> Result<T> {
    Err(TransferError::Refused(message.into()))
}

/// What was transferred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transferred {
    /// The organization as it is called where it is now.
    #[serde(serialize_with = "shown")]
    pub organization: OrganizationId,
    pub slug: String,
    /// Rows of each table.
    pub tables: BTreeMap<String, u64>,
    /// Rows of all tables.
    pub rows: u64,
}

fn shown<S: serde::Serializer>(id: &OrganizationId, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// Another slug than the file's.
    pub slug: Option<String>,
    /// Makes another organization with the same contents, without what cannot be there twice.
    pub as_copy: bool,
}

/// The first line.
#[derive(Debug, Deserialize, Serialize)]
struct Header {
    format: String,
    /// The newest migration of the database it came from.
    migration: i64,
    organization: Uuid,
    slug: String,
}

/// The line before the rows of a table.
#[derive(Debug, Deserialize, Serialize)]
struct Section {
    table: String,
    columns: Vec<String>,
}

/// The line behind the rows of a table.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Total {
    rows: u64,
    sha256: String,
}

/// The last line.
#[derive(Debug, Deserialize, Serialize)]
struct End {
    tables: u64,
    rows: u64,
}

/// What the catalogue says of a table.
#[derive(Debug)]
struct Table {
    name: String,
    columns: Vec<String>,
    /// The columns that the rows are ordered by: the primary key.
    order: Vec<String>,
    /// Columns that refer to users.
    users: BTreeSet<String>,
    /// Nullable columns of which no two organizations have the same value.
    unique: BTreeSet<String>,
}

fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
}

impl Table {
    /// The statement that reads these columns of its rows of an organization, in their order.
    fn copy_out(&self, columns: &[String], tables: &[Self], organization: Uuid) -> String {
        let own = match self.name.as_str() {
            "organizations" => format!("id = '{organization}'"),
            "users" => {
                let referring = tables.iter().flat_map(|table| table.users.iter().map(move |column| (table, column)));
                let of = referring.map(|(table, column)| {
                    let (name, column) = (quote(&table.name), quote(column));
                    format!("select {column} from tenantry.{name} where organization_id = '{organization}'")
                });
                format!("id in ({})", of.collect::<Vec<_>>().join(" union "))
            }
            "feature_flag_definitions" => format!(
                "key in (select flag_key from tenantry.organization_feature_flags where organization_id = '{organization}')"
            ),
            _ => format!("organization_id = '{organization}'"),
        };
        let (columns, name, order) = (list(columns), quote(&self.name), list(&self.order));
        format!("copy (select {columns} from tenantry.{name} where {own} order by {order}) to stdout")
    }
}

/// The tables of an organization, each after those that it refers to; before them the organization, its people and its flags.
async fn tables(tx: &mut SystemTx) -> Result<Vec<Table>> {
    let sql = format!(
        "select c.relname::text,
                (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''),
                (select array_agg(a.attname::text order by k.place) from pg_index i, unnest(i.indkey) with ordinality as k (attnum, place)
                   join pg_attribute a on a.attnum = k.attnum where i.indrelid = c.oid and i.indisprimary and a.attrelid = c.oid),
                coalesce((select array_agg(a.attname::text) from pg_constraint f join pg_attribute a on a.attrelid = f.conrelid and a.attnum = f.conkey[1]
                  where f.conrelid = c.oid and f.contype = 'f' and f.confrelid = 'tenantry.users'::regclass), '{{}}'),
                coalesce((select array_agg(distinct f.confrelid::regclass::text) from pg_constraint f
                  where f.conrelid = c.oid and f.contype = 'f' and f.confrelid <> c.oid), '{{}}'),
                coalesce((select array_agg(distinct a.attname::text) from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
                  where i.indrelid = c.oid and i.indisunique and not a.attnotnull
                    and i.indkey[0] not in (select o.attnum from pg_attribute o where o.attrelid = c.oid and o.attname = 'organization_id')), '{{}}')
           from pg_class c
          where c.relnamespace = 'tenantry'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
            and (c.relname in ('organizations', 'users', 'feature_flag_definitions')
                 or c.relname not in ({LEFT_OUT}) and c.relname not like 'adopt\\_%'
                    and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped))
          order by c.relname not in ('users', 'organizations', 'feature_flag_definitions'), c.relname"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(tx.conn()).await?;
    let mut waiting = Vec::with_capacity(rows.len());
    for row in &rows {
        let name: String = row.try_get(0)?;
        let refers: Vec<String> = row.try_get(4)?;
        let is_global = matches!(name.as_str(), "organizations" | "users" | "feature_flag_definitions");
        let columns: Vec<String> = row.try_get(1)?;
        let users: Vec<String> = row.try_get(3)?;
        let unique: Vec<String> = row.try_get(5)?;
        let table = Table {
            columns: if name == "users" {
                USER_COLUMNS.iter().map(|column| (*column).to_owned()).collect()
            } else {
                // Who has a seat follows from what the platform sells.
                columns.into_iter().filter(|column| column != "waits_for_seat").collect()
            },
            order: row.try_get(2)?,
            users: if is_global { BTreeSet::new() } else { users.into_iter().collect() },
            unique: unique.into_iter().collect(),
            name,
        };
        waiting.push((table, refers, is_global));
    }
    // A user's current organization and an organization's own rows refer to each other: the global tables go first.
    let (global, mut waiting): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, _, is_global)| *is_global);
    let mut sorted: Vec<Table> = global.into_iter().map(|(table, ..)| table).collect();
    while !waiting.is_empty() {
        let names: BTreeSet<String> = waiting.iter().map(|(table, ..)| format!("tenantry.{}", table.name)).collect();
        let (ready, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(_, refers, _)| !refers.iter().any(|other| names.contains(other)));
        if ready.is_empty() {
            return Err(Error::internal(format!("tables refer to each other in a circle: {names:?}")).into());
        }
        sorted.extend(ready.into_iter().map(|(table, ..)| table));
        waiting = rest;
    }
    Ok(sorted)
}

async fn newest_migration(tx: &mut SystemTx) -> Result<i64> {
    Ok(sqlx::query_scalar("select max(version) from tenantry._sqlx_migrations where success")
        .fetch_one(tx.conn())
        .await?)
}

/// A transaction that may take as long as it takes.
async fn begin(db: &Db, mode: &'static str) -> Result<SystemTx> {
    let mut tx = SystemTx::begin(db).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("{mode}; set local idle_in_transaction_session_timeout = 0")))
        .execute(tx.conn())
        .await?;
    tx.without_limit().await?;
    Ok(tx)
}

/// Reads the rows of a `COPY` into `take`, and says how many they were and their hash.
async fn read_rows(tx: &mut SystemTx, sql: &str, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<Total> {
    let mut hash = Sha256::new();
    let mut rows = 0;
    let mut stream = tx.conn().unbounded()?.copy_out_raw(sql).await?;
    while let Some(bytes) = stream.try_next().await? {
        hash.update(&bytes);
        // A line break within a value is written as `\n`, with a backslash.
        rows += bytes.split(|byte| *byte == b'\n').count() as u64 - 1;
        take(&bytes)?;
    }
    Ok(Total { rows, sha256: hex(&hash.finalize()) })
}

fn line(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

/// Writes an organization as it is at this moment.
///
/// # Errors
/// The database could not be read, or `out` not be written.
pub async fn export(db: &Db, organization: OrganizationId, out: &mut impl Write) -> Result<Transferred> {
    crate::audit::chain::seal(db, organization).await?;
    let mut tx = begin(db, "set transaction isolation level repeatable read read only").await?;
    let tables = tables(&mut tx).await?;
    let slug: String = sqlx::query_scalar("select slug from tenantry.organizations where id = $1")
        .bind(organization)
        .fetch_one(tx.conn())
        .await?;
    let migration = newest_migration(&mut tx).await?;
    let header = Header { format: FORMAT.to_owned(), migration, organization: organization.uuid(), slug: slug.clone() };
    line(out, &header)?;
    let mut done = Transferred { organization, slug, tables: BTreeMap::new(), rows: 0 };
    for table in &tables {
        line(out, &Section { table: table.name.clone(), columns: table.columns.clone() })?;
        let sql = table.copy_out(&table.columns, &tables, organization.uuid());
        let total = read_rows(&mut tx, &sql, |bytes| out.write_all(bytes)).await?;
        out.write_all(b"\\.\n")?;
        line(out, &total)?;
        done.rows += total.rows;
        done.tables.insert(table.name.clone(), total.rows);
    }
    line(out, &End { tables: tables.len() as u64, rows: done.rows })?;
    out.flush()?;
    Ok(done)
}

/// A file that is being read.
struct Reader<R> {
    input: R,
    line: u64,
    text: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// The next line with its break; `false` at the end.
    fn next(&mut self) -> Result<bool> {
        self.text.clear();
        self.line += 1;
        Ok(self.input.read_until(b'\n', &mut self.text)? > 0)
    }

    /// The next line as JSON.
    fn json<T: for<'de> Deserialize<'de>>(&mut self, what: &str) -> Result<T> {
        if !self.next()? {
            return refused(format!("the file ends at line {}, where {what} is expected: it is not whole", self.line));
        }
        serde_json::from_slice(&self.text)
            .or_else(|_| refused(format!("line {} is not {what}: the file is damaged", self.line)))
    }
}

/// Where an import writes.
struct Target<'a> {
    tables: &'a [Table],
    /// The organization in the file, and here.
    from: Uuid,
    to: Uuid,
    slug: &'a str,
    as_copy: bool,
}

/// Makes the organization of a file, with all that belongs to it, in one transaction.
///
/// # Errors
/// [`TransferError::Refused`] for a file that is damaged, of another version, or of an organization that is here.
pub async fn import(db: &Db, clock: &Clock, input: impl BufRead + Send, options: &Import) -> Result<Transferred> {
    let mut reader = Reader { input, line: 0, text: Vec::new() };
    let header: Header = reader.json("the beginning of an export of `tenantry tenant export`")?;
    if header.format != FORMAT {
        return refused(format!("the file is of the format {}, and this program reads {FORMAT}", header.format));
    }
    let mut tx = begin(db, "set constraints all immediate").await?;
    let migration = newest_migration(&mut tx).await?;
    if migration != header.migration {
        return refused(format!(
            "the file is from a database at migration {}, and this one is at {migration}: bring both to the same (`tenantry migrate up`), export again",
            header.migration
        ));
    }
    let slug = options.slug.clone().unwrap_or_else(|| header.slug.clone());
    if crate::organizations::slug(&slug).as_deref() != Some(slug.as_str()) {
        return refused("a slug takes lower case letters, digits and single hyphens between them, 1 to 63");
    }
    let to = if options.as_copy { OrganizationId::new(clock).uuid() } else { header.organization };
    let there: Option<String> =
        sqlx::query_scalar("select slug from tenantry.organizations where id = $1 or slug = $2 limit 1")
            .bind(to)
            .bind(&slug)
            .fetch_optional(tx.conn())
            .await?;
    if let Some(there) = there {
        return refused(format!(
            "an organization {there} is in this database already: choose another slug, or make a copy"
        ));
    }
    let tables = tables(&mut tx).await?;
    let target = Target { tables: &tables, from: header.organization, to, slug: &slug, as_copy: options.as_copy };
    let mut done = Transferred {
        organization: OrganizationId::from_uuid(to),
        slug: slug.clone(),
        tables: BTreeMap::new(),
        rows: 0,
    };
    // Members come before what says how many seats there are.
    sqlx::query("set local app.seats_are_settled_later = 'on'").execute(tx.conn()).await?;
    let (mut sections, mut rows) = (0, 0);
    loop {
        if !reader.next()? {
            return refused(format!("the file ends at line {} without its last line: it is not whole", reader.line));
        }
        if let Ok(end) = serde_json::from_slice::<End>(&reader.text) {
            if (end.tables, end.rows) != (sections, rows) {
                return refused("the file has more or fewer tables or rows than its last line says: it is not whole");
            }
            break;
        }
        let section: Section = serde_json::from_slice(&reader.text).or_else(|_| {
            refused(format!("line {} is not the beginning of a table: the file is damaged", reader.line))
        })?;
        sections += 1;
        let (read, written) = import_table(&mut tx, &mut reader, &target, &section).await?;
        rows += read;
        done.rows += written;
        if done.tables.insert(section.table.clone(), written).is_some() {
            return refused(format!("the table {} is in the file twice", section.table));
        }
    }
    // What has a seal needs no other.
    sqlx::query(
        "delete from tenantry.audit_unsealed q using tenantry.audit_seals s
          where q.organization_id = $1 and s.organization_id = q.organization_id and s.audit_log_id = q.audit_log_id",
    )
    .bind(to)
    .execute(tx.conn())
    .await?;
    let action = if options.as_copy { "organization.clone" } else { "organization.import" };
    let metadata = json!({ "rows": done.rows, "from": OrganizationId::from_uuid(header.organization).to_string() });
    let entry = AuditEntry::of(action, done.organization, metadata);
    trail::record_of_system(&mut tx, clock, done.organization, &entry).await?;
    sqlx::query("set local app.seats_are_settled_later = 'off'").execute(tx.conn()).await?;
    sqlx::query("select tenantry.settle_seats($1)").bind(to).execute(tx.conn()).await?;
    tx.commit().await?;
    Ok(done)
}

/// Reads a section into a temporary table and from there into its table; how many rows were read, and how many written.
async fn import_table<R: BufRead>(
    tx: &mut SystemTx,
    reader: &mut Reader<R>,
    target: &Target<'_>,
    section: &Section,
) -> Result<(u64, u64)> {
    let Some(table) = target.tables.iter().find(|table| table.name == section.table) else {
        return refused(format!("the file has a table {}, which no organization has here", section.table));
    };
    if let Some(unknown) = section.columns.iter().find(|column| !table.columns.contains(column)) {
        return refused(format!("the file has a column {unknown} of {}, which is not here", table.name));
    }
    let (name, columns) = (quote(&table.name), list(&section.columns));
    let temporary = quote(&format!("import_{}", table.name));
    sqlx::raw_sql(AssertSqlSafe(format!(
        "create temporary table {temporary} on commit drop as select {columns} from tenantry.{name} with no data"
    )))
    .execute(tx.conn())
    .await?;
    let read = fill(tx, reader, &format!("copy pg_temp.{temporary} ({columns}) from stdin")).await?;
    let declared: Total = reader.json("the end of a table")?;
    if read != declared {
        return refused(format!("the rows of {} are not as they were exported: the file is damaged", table.name));
    }
    if target.as_copy && NOT_CLONED.contains(&table.name.as_str()) {
        return Ok((read.rows, 0));
    }
    let written = insert(tx, target, table, section, &temporary).await?;
    let is_shared = matches!(table.name.as_str(), "users" | "feature_flag_definitions");
    if !is_shared && written != read.rows {
        return Err(Error::internal(format!("{}: {written} of {} rows were written", table.name, read.rows)).into());
    }
    if !is_shared && !target.as_copy && table.name != "organizations" {
        check(tx, target, table, section, &read).await?;
    }
    Ok((read.rows, written))
}

/// Sends lines to a `COPY` until the one that ends them.
async fn fill<R: BufRead>(tx: &mut SystemTx, reader: &mut Reader<R>, sql: &str) -> Result<Total> {
    let (mut hash, mut rows) = (Sha256::new(), 0);
    let mut copy = tx.conn().unbounded()?.copy_in_raw(sql).await?;
    let mut chunk = Vec::with_capacity(CHUNK * 2);
    loop {
        if !reader.next()? {
            return refused(format!("the file ends at line {} within a table: it is not whole", reader.line));
        }
        if reader.text == b"\\.\n" {
            break;
        }
        hash.update(&reader.text);
        rows += 1;
        chunk.extend_from_slice(&reader.text);
        if chunk.len() >= CHUNK {
            copy.send(chunk.as_slice()).await?;
            chunk.clear();
        }
    }
    copy.send(chunk.as_slice()).await?;
    copy.finish().await?;
    Ok(Total { rows, sha256: hex(&hash.finalize()) })
}

/// Writes the rows of a temporary table into their table; how many.
async fn insert(
    tx: &mut SystemTx,
    target: &Target<'_>,
    table: &Table,
    section: &Section,
    temporary: &str,
) -> Result<u64> {
    let (name, columns) = (quote(&table.name), list(&section.columns));
    let value = |column: &String| {
        let own = format!("i.{}", quote(column));
        match (table.name.as_str(), column.as_str()) {
            ("organizations", "id") | (_, "organization_id") => format!("'{}'::uuid", target.to),
            // The slug was checked: it has no quotes.
            ("organizations", "slug") => format!("'{}'", target.slug),
            (_, column) if table.users.contains(column) => {
                format!("(select m.here from pg_temp.import_people m where m.there = {own})")
            }
            (_, column) if target.as_copy && table.unique.contains(column) => "null".to_owned(),
            // What the original pays, the copy does not: its refunds that are on their way end there.
            ("refunds", "status") if target.as_copy => {
                "(case when i.status::text in ('APPROVED', 'PROCESSING') then 'CANCELLED' else i.status::text end)::tenantry.refund_status".to_owned()
            }
            ("refunds", "reservation_id") if target.as_copy => {
                "case when i.status::text in ('APPROVED', 'PROCESSING') then null else i.reservation_id end".to_owned()
            }
            ("refunds", "next_attempt_at" | "stripe_refund_id") if target.as_copy => "null".to_owned(),
            _ => own,
        }
    };
    let values = section.columns.iter().map(value).collect::<Vec<_>>().join(", ");
    let conflict = match table.name.as_str() {
        "users" | "feature_flag_definitions" => " on conflict do nothing",
        _ => "",
    };
    // A row of another organization in the file would become one of this.
    let own = match table.name.as_str() {
        "organizations" => format!("i.id = '{}'", target.from),
        "users" | "feature_flag_definitions" => "true".to_owned(),
        _ => format!("i.organization_id = '{}'", target.from),
    };
    let sql = format!(
        "insert into tenantry.{name} ({columns}) select {values} from pg_temp.{temporary} i where {own}{conflict}"
    );
    let written = sqlx::query(AssertSqlSafe(sql)).execute(tx.conn()).await?.rows_affected();
    if table.name == "users" {
        // People are known by who they are at the identity provider; here they may have another id.
        sqlx::raw_sql(AssertSqlSafe(format!(
            "create temporary table import_people on commit drop as
               select i.id as there, u.id as here from pg_temp.{temporary} i join tenantry.users u on u.clerk_id = i.clerk_id;
             create unique index on pg_temp.import_people (there); analyze pg_temp.import_people"
        )))
        .execute(tx.conn())
        .await?;
        let strange: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
            "select count(*) from pg_temp.{temporary} i where not exists (select from pg_temp.import_people p where p.there = i.id)"
        )))
        .fetch_one(tx.conn())
        .await?;
        if strange > 0 {
            return refused(format!(
                "{strange} people of the file have ids that other people have here: nothing was written"
            ));
        }
    }
    Ok(written)
}

/// Compares what the database holds now with what was exported, unless people have other ids here.
async fn check(tx: &mut SystemTx, target: &Target<'_>, table: &Table, section: &Section, read: &Total) -> Result<()> {
    if !table.users.is_empty() {
        let moved: bool = sqlx::query_scalar("select exists (select from pg_temp.import_people where here <> there)")
            .fetch_one(tx.conn())
            .await?;
        if moved {
            return Ok(());
        }
    }
    let total = read_rows(tx, &table.copy_out(&section.columns, target.tables, target.to), |_| Ok(())).await?;
    if total != *read {
        return Err(Error::internal(format!("{}: the database holds other rows than were exported", table.name)).into());
    }
    Ok(())
}
