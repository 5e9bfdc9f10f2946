//! Makes organizations and users of Tenantry from the legacy ones.

use sqlx::{AssertSqlSafe, PgConnection};

use super::batch::BatchSql;
use super::check::Checked;
use super::infer::{Mappings, compared};
use super::name::{literal, quote};
use super::plan::{Memberships, Prefer};
use super::run::{Pace, RunOptions, Summary};
use super::{AdoptError, OwnerConnection, Relation, Result, doing};
use crate::clock::Clock;
use crate::error::Code;
use crate::id::Id;

/// The query of legacy users: `legacy_id, clerk_id, email, name, organization_id, reason, memberships`.
///
/// The organization is the current one, else the primary one, else the only one. Where these differ or are not known,
/// there is a reason instead.
pub fn resolution(checked: &Checked, mappings: Mappings, condition: &str) -> String {
    let users = &checked.plan.users;
    let text = |column: &Option<String>| {
        column
            .as_ref()
            .map_or_else(|| "null::text".to_owned(), |name| format!("nullif(btrim(u.{}::text), '')", quote(name)))
    };
    let mut joins = String::new();
    let (mut current, mut current_key) = ("null::uuid".to_owned(), "null::text".to_owned());
    if let Some(column) = &users.current_organization {
        current_key = format!("u.{}::text", quote(column));
        let row = ("u", &users.table, column.as_str());
        let organization = mappings.organization_of(checked, users.current_organization_to.as_deref(), "c", row);
        joins += &format!(" left join {organization}");
        "c.organization_id".clone_into(&mut current);
    }
    let (mut all, mut primaries, mut memberships) =
        ("'{}'::uuid[]".to_owned(), "'{}'::uuid[]".to_owned(), "'[]'::jsonb".to_owned());
    let id = quote(&users.id);
    // Of all the users at once: the legacy database need not have an index that begins with the user.
    if let Some(rows) = self::memberships(checked, mappings, &format!("p.{id} in (select k.{id} from page k)")) {
        joins += &format!(
            " left join (
                 select legacy_user, array_agg(distinct organization_id) as all_of_them,
                        array_agg(distinct organization_id) filter (where is_primary) as primaries,
                        jsonb_agg(jsonb_build_object('organization', organization_id, 'role', role) order by organization_id, {BY_ROLE}) as memberships
                   from ({rows}) l group by legacy_user) m on m.legacy_user = u.{id}::text"
        );
        "coalesce(m.all_of_them, '{}')".clone_into(&mut all);
        "coalesce(m.primaries, '{}')".clone_into(&mut primaries);
        "coalesce(m.memberships, '[]')".clone_into(&mut memberships);
    }
    // An owner's column alone does not tell who the others are.
    let member_check = if checked.plan.memberships.is_some() {
        format!(
            "when {current} is not null and {current} <> all ({all}) then 'is not a member of its current organization' "
        )
    } else {
        String::new()
    };
    let primary = format!(
        "case when cardinality({primaries}) = 1 then ({primaries})[1] when cardinality({all}) = 1 then ({all})[1] end"
    );
    let (differ, chosen) = match users.prefer {
        Some(Prefer::Current) => (String::new(), format!("coalesce({current}, {primary})")),
        Some(Prefer::Primary) => (String::new(), format!("coalesce({primary}, {current})")),
        None => (
            format!(
                "when cardinality({primaries}) = 1 and {current} <> ({primaries})[1] then 'conflict: its current and its primary organization differ' "
            ),
            format!("coalesce({current}, {primary})"),
        ),
    };
    let reason = format!(
        "case when {current_key} is not null and {current} is null then 'has a current organization that does not exist: ' || {current_key}
              {member_check}
              when cardinality({primaries}) > 1 then 'has several primary organizations'
              {differ}
              when {current} is null and cardinality({primaries}) = 0 and cardinality({all}) > 1 then 'is a member of several organizations, and none is primary' end"
    );
    format!(
        "with page as materialized (select u.* from {table} u where {condition})
         select r.legacy_id, r.clerk_id, r.email, r.name, case when r.reason is null then r.chosen end as organization_id, r.reason, r.memberships, r.key
           from (select u.{id}::text as legacy_id, {clerk} as clerk_id, {email} as email, {name} as name,
                        {chosen} as chosen, {reason} as reason, {memberships} as memberships, u.{id} as key
                   from page u{joins}) r",
        id = quote(&users.id),
        clerk = text(&users.clerk_id),
        email = text(&users.email),
        name = text(&users.name),
        table = users.rows(),
    )
}

/// What the legacy database says of memberships, a row each: `legacy_user`, `organization_id`, `role`, `is_primary`. `condition`
/// is on the user `p`. `None` where it says nothing.
pub fn memberships(checked: &Checked, mappings: Mappings, condition: &str) -> Option<String> {
    let users = &checked.plan.users;
    let column = |table: &Relation, name: &str| checked.catalogue.get(table).and_then(|info| info.column(name));
    let names_user = |table: &Relation, name: &str, to: Option<&String>| {
        compared("l", column(table, name), column(&users.table, to.unwrap_or(&users.id)))
    };
    let mut selects = Vec::new();
    if let Some(organizations) = &checked.plan.organizations
        && let Some(owner) = &organizations.owner
    {
        selects.push(format!(
            "select p.{id}::text as legacy_user, o.organization_id, 'OWNER' as role, false as is_primary
               from {users} p join {rows} l on {owner} = p.{to} join {mapping} o on o.legacy_id = l.{key}::text where {condition}",
            id = quote(&users.id),
            users = users.rows(),
            rows = organizations.rows(),
            owner = names_user(&organizations.table, owner, organizations.owner_to.as_ref()),
            to = quote(organizations.owner_to.as_ref().unwrap_or(&users.id)),
            mapping = mappings.organizations(&checked.plan.name),
            key = quote(&organizations.id),
        ));
    }
    if let Some(plan) = &checked.plan.memberships {
        let primary = plan
            .primary
            .as_ref()
            .map_or_else(|| "false".to_owned(), |column| format!("coalesce(l.{}, false)", quote(column)));
        selects.push(format!(
            "select p.{id}::text as legacy_user, o.organization_id, {role} as role, {primary} as is_primary
               from {users} p join {rows} l on {user} = p.{to} join {organization} where {condition}",
            id = quote(&users.id),
            role = role_of(plan),
            users = users.rows(),
            rows = plan.rows(),
            user = names_user(&plan.table, &plan.user, plan.user_to.as_ref()),
            to = quote(plan.user_to.as_ref().unwrap_or(&users.id)),
            organization = mappings.organization_of(
                checked,
                plan.organization_to.as_deref(),
                "o",
                ("l", &plan.table, &plan.organization)
            ),
        ));
    }
    (!selects.is_empty()).then(|| selects.join(" union all "))
}

/// The role of a membership, in SQL over `l`.
fn role_of(plan: &Memberships) -> String {
    let known: Vec<String> =
        plan.roles.iter().map(|(value, role)| format!(" when {} then '{}'", literal(value), role.label())).collect();
    match &plan.role {
        Some(column) if !known.is_empty() => {
            format!("case l.{}::text{} else 'MEMBER' end", quote(column), known.concat())
        }
        _ => "'MEMBER'".to_owned(),
    }
}

/// Roles from the strongest to the weakest: of several memberships in one organization the first counts.
pub const BY_ROLE: &str = "array_position(array['OWNER', 'ADMIN', 'MEMBER', 'VIEWER'], role)";

fn new_id(clock: &Clock) -> uuid::Uuid {
    Id::<()>::new(clock).uuid()
}

/// A legacy organization that is still to be made: its key, name and slug.
type MissingOrganization = (String, String, Option<String>);

async fn missing_organizations(session: &mut OwnerConnection, checked: &Checked) -> Result<Vec<MissingOrganization>> {
    let Some(plan) = &checked.plan.organizations else { return Ok(Vec::new()) };
    let slug = plan
        .slug
        .as_ref()
        .map_or_else(|| "null".to_owned(), |slug| format!("nullif(btrim(o.{}::text), '')", quote(slug)));
    let sql = format!(
        "select o.{id}::text, coalesce(nullif(btrim(o.{name}::text), ''), 'Organization ' || o.{id}::text), {slug}
           from {table} o
          where not exists (select from tenantry.adopt_organizations a where a.adoption = $1 and a.legacy_id = o.{id}::text and not a.ended)
          order by o.{id}",
        id = quote(&plan.id),
        name = quote(&plan.name),
        table = plan.rows(),
    );
    session
        .retrying("reading the organizations", async |connection| {
            sqlx::query_as(AssertSqlSafe(sql.as_str())).bind(&checked.plan.name).fetch_all(connection).await
        })
        .await
}

/// The key as an id, if it is a UUID.
fn own_id(legacy_id: &str) -> Option<uuid::Uuid> {
    uuid::Uuid::try_parse(legacy_id).ok().filter(|id| !id.is_nil())
}

/// Refuses legacy organizations with the id of an existing organization that this adoption did not make. Otherwise,
/// someone who can write to the legacy database could choose that id and add members to that tenant.
pub async fn refuse_foreign_organizations(session: &mut OwnerConnection, checked: &Checked) -> Result<()> {
    let Some(plan) = &checked.plan.organizations else { return Ok(()) };
    let ids: Vec<uuid::Uuid> =
        missing_organizations(session, checked).await?.iter().filter_map(|(id, ..)| own_id(id)).collect();
    let found: Vec<(uuid::Uuid, String, bool)> = session
        .retrying("looking for organizations of the same id", async |connection| {
            sqlx::query_as(
                "select o.id, o.slug, o.deleted_at is not null from tenantry.organizations o
                  where o.id = any ($1) and (o.deleted_at is not null or not $3)
                    and not exists (select from tenantry.adopt_created c where c.adoption = $2 and c.organization_id = o.id and c.user_id is null)
                  order by o.id limit 20",
            )
            .bind(&ids)
            .bind(&checked.plan.name)
            .bind(plan.join_existing)
            .fetch_all(connection)
            .await
        })
        .await?;
    if found.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = found
        .iter()
        .map(|(id, slug, deleted)| {
            let table = &plan.table;
            if *deleted {
                format!("{table} {id}: is the id of the organization `{slug}`, which is deleted: give the legacy one another id")
            } else {
                format!("{table} {id}: is the id of the organization `{slug}`, which this adoption did not make. If they are the same, and its members and roles in the legacy database shall hold in Tenantry, say `join_existing = true` in [organizations]; else give the legacy one another id")
            }
        })
        .collect();
    Err(AdoptError::refused(Code::OrganizationTaken, lines.join("\n")))
}

/// Makes the organizations that do not exist yet. An organization with the same UUID is the same one if this adoption
/// made it or the plan says so. An organization with the same slug is another one.
pub async fn organizations(
    session: &mut OwnerConnection,
    checked: &Checked,
    clock: &Clock,
    summary: &mut Summary,
) -> Result<()> {
    let Some(plan) = &checked.plan.organizations else { return Ok(()) };
    let adoption = checked.plan.name.as_str();
    for (legacy_id, name, slug) in missing_organizations(session, checked).await? {
        let id = own_id(&legacy_id).unwrap_or_else(|| new_id(clock));
        session
            .retrying(&format!("making organization {legacy_id}"), async |connection| {
                sqlx::query("select tenantry.adopt_organization($1, $2, $3, $4, $5, $6)")
                    .bind(adoption)
                    .bind(&legacy_id)
                    .bind(id)
                    .bind(&name)
                    .bind(&slug)
                    .bind(plan.join_existing)
                    .execute(connection)
                    .await
                    .map(drop)
            })
            .await?;
        summary.organizations += 1;
    }
    Ok(())
}

/// Memberships that are not what the legacy database says: `legacy_user`, `organization_id`, `wanted` (a role, or null) and
/// `found`. Those that somebody else made, as the sync does, are theirs.
pub fn differing_memberships(checked: &Checked) -> Option<String> {
    let rows = memberships(checked, Mappings::Real, "true")?;
    let adoption = literal(&checked.plan.name);
    // An owner's column alone does not tell who the others are.
    let ended = if checked.plan.memberships.is_some() {
        format!(
            " union all
            select a.legacy_id, c.organization_id, null, m.role::text
              from tenantry.adopt_created c
              join tenantry.adopt_organizations o on o.adoption = {adoption} and o.organization_id = c.organization_id
              join tenantry.adopt_users a on a.adoption = {adoption} and a.user_id = c.user_id
              join tenantry.organization_members m on m.organization_id = c.organization_id and m.user_id = c.user_id and m.deleted_at is null
             where c.adoption = {adoption} and not exists (select from wanted w where w.legacy_user = a.legacy_id and w.organization_id = c.organization_id)"
        )
    } else {
        String::new()
    };
    Some(format!(
        "with wanted as (select legacy_user, organization_id, (array_agg(role order by {BY_ROLE}))[1] as role from ({rows}) r group by 1, 2)
         select w.legacy_user, w.organization_id, w.role as wanted, case when m.deleted_at is null then m.role::text end as found
           from wanted w
           join tenantry.adopt_users a on a.adoption = {adoption} and a.legacy_id = w.legacy_user and a.user_id is not null
           left join tenantry.organization_members m on m.organization_id = w.organization_id and m.user_id = a.user_id
          where m.id is null
             or (m.deleted_at is not null or m.role::text <> w.role)
                and exists (select from tenantry.adopt_created c where c.adoption = {adoption} and c.organization_id = w.organization_id and c.user_id = a.user_id){ended}"
    ))
}

/// Ends organizations and users that are gone from the legacy database, and gives back those who came back, where no trigger
/// looked.
pub async fn follow_ends(session: &mut OwnerConnection, checked: &Checked) -> Result<()> {
    let plan = &checked.plan;
    let adoption = literal(&plan.name);
    let mut work = Vec::new();
    if let Some(organizations) = &plan.organizations {
        work.push(format!(
            "select tenantry.adopt_end_organization(a.adoption, a.legacy_id) from tenantry.adopt_organizations a
              where a.adoption = {adoption} and not a.ended and not exists (select from {} p where p.{}::text = a.legacy_id)",
            organizations.rows(),
            quote(&organizations.id)
        ));
    }
    for (function, ended) in [("adopt_end_user", false), ("adopt_resume_user", true)] {
        let (state, there) = if ended { ("a.ended", "exists") } else { ("not a.ended", "not exists") };
        work.push(format!(
            "select tenantry.{function}(a.adoption, a.legacy_id) from tenantry.adopt_users a
              where a.adoption = {adoption} and {state} and a.user_id is not null and {there} (select from {} p where p.{}::text = a.legacy_id)",
            plan.users.rows(),
            quote(&plan.users.id)
        ));
    }
    let work = work.join("; ");
    session
        .retrying("following who is gone", async |connection| {
            sqlx::raw_sql(AssertSqlSafe(work.as_str())).execute(connection).await.map(drop)
        })
        .await
}

/// Makes memberships what the legacy database says: what changed while no trigger looked.
pub async fn follow_memberships(session: &mut OwnerConnection, checked: &Checked) -> Result<()> {
    let Some(differing) = differing_memberships(checked) else { return Ok(()) };
    let function = super::trigger::membership_function_name(checked);
    let sql = format!("select {function}(legacy_user, organization_id) from ({differing}) d");
    session
        .retrying("following the memberships", async |connection| {
            let there: bool = sqlx::query_scalar("select to_regproc($1) is not null")
                .bind(&function)
                .fetch_one(&mut *connection)
                .await?;
            if there {
                sqlx::query(AssertSqlSafe(sql.as_str())).execute(connection).await?;
            }
            Ok(())
        })
        .await
}

/// A user to adopt: a row of [`resolution`].
type Person =
    (String, Option<String>, Option<String>, Option<String>, Option<uuid::Uuid>, Option<String>, serde_json::Value);

/// Gives every user an organization, as the plan says.
pub async fn users(
    session: &mut OwnerConnection,
    checked: &Checked,
    clock: &Clock,
    options: &RunOptions,
    pace: &mut Pace,
    summary: &mut Summary,
) -> Result<()> {
    let plan = &checked.plan;
    let id = quote(&plan.users.id);
    let id_type = checked
        .catalogue
        .get(&plan.users.table)
        .and_then(|info| info.column(&plan.users.id))
        .map_or("text", |c| c.data_type.as_str());
    // A look-up for each user, whatever the planner thinks of a table that just begins to fill.
    let unmapped = format!(
        "(select a.organization_id from tenantry.adopt_users a where a.adoption = {} and a.legacy_id = u.{id}::text) is null",
        literal(&plan.name)
    );
    let reading = |after: bool| {
        let beyond = if after { format!(" and u.{id} > $1::{id_type}") } else { String::new() };
        // The limit belongs into the innermost query, so that memberships are read for this page only.
        let condition = format!("{unmapped}{beyond} order by u.{id} limit {USERS_OF_A_PAGE}");
        format!(
            "select legacy_id, clerk_id, email, name, organization_id, reason, memberships from ({}) p order by key",
            resolution(checked, Mappings::Real, &condition)
        )
    };
    let (total, mapped): (i64, i64) = session
        .retrying("counting the users", async |connection| {
            let count = format!("select count(*), count(*) filter (where not {unmapped}) from {} u", plan.users.rows());
            sqlx::query_as(AssertSqlSafe(count)).fetch_one(connection).await
        })
        .await?;
    summary.users.skipped += mapped.unsigned_abs();
    let with_user: Vec<BatchSql> = checked
        .tables
        .iter()
        .filter(|table| table.spec.with_user)
        .map(|table| BatchSql::of_user(checked, table, options.batch_size))
        .collect();
    let mut progress = session.progress.begin("users", (total - mapped).unsigned_abs());
    let mut after: Option<String> = None;
    let (mut adopted, mut analyzed_at) = (0, 0);
    loop {
        let sql = reading(after.is_some());
        let people: Vec<Person> = session
            .retrying("reading users", async |connection| {
                let query = sqlx::query_as(AssertSqlSafe(sql.as_str()));
                match &after {
                    Some(after) => query.bind(after).fetch_all(connection).await,
                    None => query.fetch_all(connection).await,
                }
            })
            .await?;
        let Some(last) = people.last() else { break };
        after = Some(last.0.clone());
        for group in people.chunks(USERS_AT_ONCE) {
            let outcomes = if with_user.is_empty() {
                adopt_together(session, plan, group, clock).await?
            } else {
                vec![None; group.len()]
            };
            for (person, outcome) in group.iter().zip(outcomes) {
                let outcome = if let Some(outcome) = outcome {
                    outcome
                } else {
                    let ids = [new_id(clock), new_id(clock), new_id(clock)];
                    let (outcome, rows) = session
                        .retrying(&format!("user {}", person.0), async |connection| {
                            adopt_one(connection, plan, person, &ids, &with_user).await
                        })
                        .await?;
                    for (table, count) in rows {
                        summary.table(&table).assigned += count;
                    }
                    outcome
                };
                summary.users.count(&outcome);
                progress.advance(1);
            }
            adopted += group.len();
            if adopted >= 4 * analyzed_at {
                analyze(session).await?;
                analyzed_at = adopted;
            }
            pace.pause(session).await?;
        }
    }
    progress.finish();
    if adopted > analyzed_at {
        analyze(session).await?;
    }
    Ok(())
}

/// Tells the planner how the tables have grown. The functions and the foreign keys keep plans from the time when the tables were
/// empty and every index was as good as another; this has them made again, also in the sessions of the old application.
async fn analyze(session: &mut OwnerConnection) -> Result<()> {
    session
        .retrying("counting what there is", async |connection| {
            let tables = "analyze tenantry.users, tenantry.organizations, tenantry.organization_members, tenantry.adopt_users, tenantry.adopt_organizations, tenantry.adopt_created";
            sqlx::raw_sql(tables).execute(connection).await.map(drop)
        })
        .await
}

/// Users that are read at once, with their memberships.
const USERS_OF_A_PAGE: u32 = 5_000;
/// Users that are adopted in one transaction: some tens of milliseconds, for which somebody who registers may wait.
const USERS_AT_ONCE: usize = 100;

/// Adopts users in one transaction. `None`: one whom somebody else is adopting at the moment, or all where one of them fails; they
/// are adopted one by one, which names who fails and waits for nobody while it holds others.
async fn adopt_together(
    session: &mut OwnerConnection,
    plan: &super::Plan,
    people: &[Person],
    clock: &Clock,
) -> Result<Vec<Option<String>>> {
    let list: Vec<serde_json::Value> = people
        .iter()
        .map(|(legacy_id, clerk_id, email, name, organization, reason, memberships)| {
            serde_json::json!({
                "legacy_id": legacy_id, "clerk_id": clerk_id, "email": email, "name": name, "organization": organization,
                "reason": reason, "memberships": memberships, "ids": [new_id(clock), new_id(clock), new_id(clock)],
            })
        })
        .collect();
    let list = serde_json::Value::from(list);
    let adopted = session
        .retrying("users", async |connection| {
            let adopted = sqlx::query_scalar(
                "select case when pg_try_advisory_xact_lock(hashtext('tenantry.adopt.' || $1), hashtext(p.legacy_id)) then
                            tenantry.adopt_user($1, p.legacy_id, p.clerk_id, p.email, p.name, p.organization, p.reason, p.memberships, $3, p.ids, false) end
                   from rows from (jsonb_to_recordset($2) as (legacy_id text, clerk_id text, email text, name text, organization uuid, reason text, memberships jsonb, ids uuid[])) with ordinality
                     as p(legacy_id, clerk_id, email, name, organization, reason, memberships, ids, place) order by p.place",
            )
            .bind(&plan.name)
            .bind(&list)
            .bind(plan.workspaces.users_without.word())
            .fetch_all(connection)
            .await;
            match adopted {
                // Neither a lock nor a lost connection: it is about one of them.
                Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23") || code.starts_with("P0")) => {
                    Ok(vec![None; people.len()])
                }
                adopted => adopted,
            }
        })
        .await?;
    Ok(adopted)
}

/// Adopts a user, and the rows in the tables that move with the user, in one transaction.
async fn adopt_one(
    connection: &mut PgConnection,
    plan: &super::Plan,
    person: &Person,
    ids: &[uuid::Uuid; 3],
    with_user: &[BatchSql],
) -> sqlx::Result<(String, Vec<(String, u64)>)> {
    let adopt = sqlx::query_scalar("select tenantry.adopt_user($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, false)")
        .bind(&plan.name)
        .bind(&person.0)
        .bind(&person.1)
        .bind(&person.2)
        .bind(&person.3)
        .bind(person.4)
        .bind(&person.5)
        .bind(&person.6)
        .bind(plan.workspaces.users_without.word())
        .bind(&ids[..]);
    if with_user.is_empty() {
        return Ok((adopt.fetch_one(connection).await?, Vec::new()));
    }
    sqlx::raw_sql("begin").execute(&mut *connection).await?;
    let outcome: String = adopt.fetch_one(&mut *connection).await?;
    let mut rows = Vec::new();
    for batch in with_user {
        let mut assigned = 0;
        loop {
            let done = batch.execute_for_user(&mut *connection, &person.0).await?;
            assigned += done.assigned;
            if done.assigned < batch.limit {
                break;
            }
        }
        rows.push((batch.label.clone(), assigned));
    }
    sqlx::raw_sql("commit").execute(&mut *connection).await?;
    Ok((outcome, rows))
}

/// Makes the default workspace if a table falls back to it. Otherwise it is made with its first member.
pub async fn default_workspace(session: &mut OwnerConnection, checked: &Checked, clock: &Clock) -> Result<()> {
    let plan = &checked.plan;
    let (slug, adoption) = (&plan.workspaces.slug, &plan.name);
    if !plan.workspaces.has_default() {
        return Ok(());
    }
    let taken: bool = sqlx::query_scalar(
        "select exists (select from tenantry.organizations where slug = $1) and (select default_organization is null from tenantry.adoptions where name = $2)",
    )
    .bind(slug)
    .bind(adoption)
    .fetch_one(session.conn())
    .await
    .map_err(doing("looking for the default workspace"))?;
    if taken && !plan.workspaces.join_existing {
        return Err(AdoptError::refused(
            Code::SlugTaken,
            format!(
                "an organization `{slug}` is there already, and it is not this adoption's: choose another `workspaces.slug`, or say `join_existing = true` if its members may see all of this data"
            ),
        ));
    }
    let falls_back = plan
        .tables
        .iter()
        .flat_map(|table| &table.organization)
        .any(|source| matches!(source, super::Source::Workspace { .. }));
    if !falls_back {
        return Ok(());
    }
    let id = new_id(clock);
    session
        .retrying("making the default workspace", async |connection| {
            let make = format!(
                "select tenantry.adopt_default_organization($1, $2) from (select from {} limit 1) u",
                plan.users.rows()
            );
            sqlx::query(AssertSqlSafe(make)).bind(adoption).bind(id).execute(connection).await.map(drop)
        })
        .await
}
