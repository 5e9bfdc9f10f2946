//! Triggers for the time in which the old application still writes without organizations. The trigger of a table fills
//! in the organization of new rows from the same sources, and adopts new users when their first row arrives.
//!
//! The functions run with the rights of the owner, since the old application's login sees nothing of adopt's tables. A failure
//! in them never fails the write of the old application: the row stays without an organization for the next run.

use super::check::{Checked, CheckedTable};
use super::infer::{Mappings, conditions, inference};
use super::name::{Relation, literal, quote, short_name};
use super::people::{BY_ROLE, memberships, resolution};
use super::plan::{Memberships, Organizations, Source};

/// The path of the functions. `public` has the operators of extensions' types (citext), by which keys are compared; nobody
/// but its owner may create there (`SCHEMA_OPEN`).
const FUNCTION_PATH: &str = "pg_catalog, tenantry, public, pg_temp";

/// Separates the part of an undo that needs a short strong lock from the part that runs long under a weak one.
pub const THEN: &str = "; -- and then, by itself:\n";

/// A change of the schema: its name, its statements and its undo.
#[derive(Clone, Debug)]
pub struct SchemaChange {
    /// Its name in the record.
    pub what: String,
    /// The statements that make it.
    pub statements: Vec<String>,
    /// The statements that revert it, in one part or in two parts separated by [`THEN`]. Each part is idempotent.
    pub undo: String,
}

impl SchemaChange {
    /// The same change, when it is about to be made in several steps: recorded before the first of them, so that a rollback takes
    /// back whatever was reached. Its undo must be harmless before the change is made.
    pub fn pending(&self) -> Self {
        Self { statements: vec![format!("pending: {}", self.statements.join("; "))], ..self.clone() }
    }
}

/// The name of the trigger: the last of the alphabet, because triggers fire in the order of their names, and the team's own may
/// fill the columns that tell the organization.
pub fn trigger_name(adoption: &str) -> String {
    format!("~adopt_{adoption}")
}

fn newcomer_function_name(checked: &Checked) -> String {
    format!("tenantry.{}", quote(&short_name(&format!("adopt_meet_{}", checked.plan.name))))
}

/// The function that adopts one user by the legacy id.
pub fn newcomer_function(checked: &Checked) -> SchemaChange {
    let plan = &checked.plan;
    let info = checked.catalogue.get(&plan.users.table);
    let id_type = info.and_then(|info| info.column(&plan.users.id)).map_or("text", |column| column.data_type.as_str());
    let condition = format!("u.{} = p_legacy_id::{id_type}", quote(&plan.users.id));
    let body = format!(
        "begin
    perform tenantry.adopt_user({}, r.legacy_id, r.clerk_id, r.email, r.name, r.organization_id, r.reason, r.memberships, {},
                             array[tenantry.adopt_uuid_v7(), tenantry.adopt_uuid_v7(), tenantry.adopt_uuid_v7()], true)
       from ({}) r;
end",
        literal(&plan.name),
        literal(plan.workspaces.newcomers().word()),
        resolution(checked, Mappings::Real, &condition)
    );
    let function = newcomer_function_name(checked);
    SchemaChange {
        what: format!("function {function}"),
        statements: vec![
            format!(
                "create or replace function {function}(p_legacy_id text) returns void language plpgsql security definer set search_path = {FUNCTION_PATH} as {}",
                literal(&body)
            ),
            format!("revoke execute on function {function}(text) from public"),
        ],
        undo: format!("drop function if exists {function}(text)"),
    }
}

/// The function that makes the membership of a legacy user in an organization what the legacy database says now.
pub fn membership_function(checked: &Checked) -> Option<SchemaChange> {
    let plan = &checked.plan;
    let info = checked.catalogue.get(&plan.users.table);
    let id_type = info.and_then(|info| info.column(&plan.users.id)).map_or("text", |column| column.data_type.as_str());
    let rows = memberships(checked, Mappings::Real, &format!("p.{} = p_legacy_id::{id_type}", quote(&plan.users.id)))?;
    let (function, meet, adoption) =
        (membership_function_name(checked), newcomer_function_name(checked), literal(&plan.name));
    let body = format!(
        "declare
    v_user uuid;
    v_role tenantry.member_role;
begin
    if p_legacy_id is null or p_organization is null then return; end if;
    perform {meet}(p_legacy_id);
    select a.user_id into v_user from tenantry.adopt_users a where a.adoption = {adoption} and a.legacy_id = p_legacy_id;
    if v_user is null then return; end if;
    select m.role into v_role from ({rows}) m where m.organization_id = p_organization order by {BY_ROLE} limit 1;
    if v_role is not null then
        perform tenantry.adopt_set_membership({adoption}, p_organization, v_user, v_role);
    else
        perform tenantry.adopt_end_membership({adoption}, p_organization, v_user);
        -- Whose rows are in another organization now, or in none.
        perform {meet}(p_legacy_id);
    end if;
end"
    );
    Some(SchemaChange {
        what: format!("function {function}"),
        statements: vec![
            format!(
                "create or replace function {function}(p_legacy_id text, p_organization uuid) returns void language plpgsql security definer set search_path = {FUNCTION_PATH} as {}",
                literal(&body)
            ),
            format!("revoke execute on function {function}(text, uuid) from public"),
        ],
        undo: format!("drop function if exists {function}(text, uuid)"),
    })
}

pub fn membership_function_name(checked: &Checked) -> String {
    format!("tenantry.{}", quote(&short_name(&format!("adopt_member_{}", checked.plan.name))))
}

/// The key of a user, from a column that holds it or another column of theirs.
fn user_key(checked: &Checked, value: &str, to: Option<&String>) -> String {
    let users = &checked.plan.users;
    let info = checked.catalogue.get(&users.table);
    // As with sources: where other texts are equal, the users' own column says which key it is.
    let id = info.and_then(|info| info.column(&users.id)).filter(|id| id.loose);
    match to.or(id.map(|id| &id.name)) {
        None => format!("({value})::text"),
        Some(to) => {
            let collation = info.and_then(|info| info.column(to)).and_then(|theirs| theirs.collation.as_ref());
            let collate = collation.map_or_else(String::new, |collation| format!(" collate {collation}"));
            format!(
                "(select p.{}::text from {} p where p.{} = {value}{collate})",
                quote(&users.id),
                users.rows(),
                quote(to)
            )
        }
    }
}

/// The triggers on the tables of users, organizations and memberships: what the old application does there arrives in the same
/// transaction. Those of tables that are another role's are left out: then the next run brings it, and the first row of a user.
pub fn on_people(checked: &Checked) -> Vec<SchemaChange> {
    let plan = &checked.plan;
    let owned = |table: &Relation| checked.catalogue.get(table).is_some_and(|info| info.owned);
    let mut changes = Vec::new();
    if owned(&plan.users.table) {
        changes.push(on_users(checked));
    }
    if let Some(organizations) = plan.organizations.as_ref().filter(|organizations| owned(&organizations.table)) {
        changes.push(on_organizations(checked, organizations));
    }
    if let Some(memberships) = plan.memberships.as_ref().filter(|memberships| owned(&memberships.table)) {
        changes.push(on_memberships(checked, memberships));
    }
    changes
}

/// A trigger that does this work after every change of a row, and never fails it.
fn followed(checked: &Checked, label: &str, table: &Relation, work: &str) -> SchemaChange {
    let body = format!(
        "begin
{work}    return null;
exception when others then
    raise warning 'a change of % was not followed: %', {}, sqlerrm;
    return null;
end",
        literal(&table.to_string())
    );
    change(checked, label, &table.sql(), "after insert or update or delete", &body)
}

fn on_users(checked: &Checked) -> SchemaChange {
    let plan = &checked.plan;
    let adoption = literal(&plan.name);
    let users = &plan.users;
    let id = quote(&users.id);
    // Where memberships decide, they are inserted after the user: then that is the moment.
    let insert = if plan.organizations.is_none() {
        format!("    if tg_op = 'INSERT' then perform {}(new.{id}::text); end if;\n", newcomer_function_name(checked))
    } else {
        String::new()
    };
    let column = |column: &Option<String>, or: &str| {
        column.as_ref().map_or_else(
            || or.to_owned(),
            |column| format!("coalesce(nullif(btrim(new.{}::text), ''), {or})", quote(column)),
        )
    };
    // Who comes back gets back what ended with them, and the memberships that the legacy database still knows.
    let members =
        memberships(checked, Mappings::Real, &format!("p.{id} = new.{id}")).map_or_else(String::new, |rows| {
            format!(" perform {}(m.legacy_user, m.organization_id) from ({rows}) m;", membership_function_name(checked))
        });
    let work = format!(
        "    if tg_op <> 'DELETE' and exists (select from {rows} p where p.{id} = new.{id}) then
    if tenantry.adopt_resume_user({adoption}, new.{id}::text) then{members} perform {meet}(new.{id}::text); end if;
end if;
{insert}    if tg_op = 'DELETE' or tg_op = 'UPDATE' and not exists (select from {rows} p where p.{id} = new.{id}) then
    perform tenantry.adopt_end_user({adoption}, old.{id}::text);
elsif tg_op = 'UPDATE' then
    update tenantry.users u set name = left({name}, 200), updated_at = now()
      from tenantry.adopt_users a
     where a.adoption = {adoption} and a.legacy_id = new.{id}::text and a.user_created and u.id = a.user_id and u.name <> left({name}, 200);
end if;\n",
        rows = users.rows(),
        meet = newcomer_function_name(checked),
        name = column(&users.name, "u.name"),
    );
    followed(checked, "users", &users.table, &work)
}

fn on_organizations(checked: &Checked, organizations: &Organizations) -> SchemaChange {
    let adoption = literal(&checked.plan.name);
    let member = membership_function_name(checked);
    let id = quote(&organizations.id);
    let name = format!(
        "coalesce(nullif(btrim(new.{}::text), ''), 'Organization ' || new.{id}::text)",
        quote(&organizations.name)
    );
    let slug = organizations
        .slug
        .as_ref()
        .map_or_else(|| "null".to_owned(), |slug| format!("nullif(btrim(new.{}::text), '')", quote(slug)));
    let ownership = organizations.owner.as_ref().map_or_else(String::new, |owner| {
        let key = |row: &str| user_key(checked, &format!("{row}.{}", quote(owner)), organizations.owner_to.as_ref());
        let organization = |row: &str| format!("(select o.organization_id from tenantry.adopt_organizations o where o.adoption = {adoption} and o.legacy_id = {row}.{id}::text)");
        format!(
            "    if tg_op <> 'DELETE' then perform {member}({}, {}); end if;
if tg_op = 'UPDATE' and old.{owner} is distinct from new.{owner} then perform {member}({}, {}); end if;\n",
            key("new"), organization("new"), key("old"), organization("old"), owner = quote(owner)
        )
    });
    let work = format!(
        "    if tg_op = 'DELETE' or tg_op = 'UPDATE' and not exists (select from {rows} p where p.{id} = new.{id}) then
    perform tenantry.adopt_end_organization({adoption}, old.{id}::text);
elsif tg_op = 'INSERT' and exists (select from {rows} p where p.{id} = new.{id}) or tg_op = 'UPDATE' then
    perform tenantry.adopt_organization({adoption}, new.{id}::text,
        case when new.{id}::text ~ '^[0-9a-fA-F]{{8}}(-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}$' then new.{id}::text::uuid else tenantry.adopt_uuid_v7() end,
        {name}, {slug}, false);
    update tenantry.organizations o set name = left({name}, 200)
      from tenantry.adopt_organizations a
     where a.adoption = {adoption} and a.legacy_id = new.{id}::text and o.id = a.organization_id and o.name <> left({name}, 200)
       and exists (select from tenantry.adopt_created c where c.adoption = {adoption} and c.organization_id = o.id and c.user_id is null);
end if;\n{ownership}",
        rows = organizations.rows(),
    );
    followed(checked, "organizations", &organizations.table, &work)
}

fn on_memberships(checked: &Checked, memberships: &Memberships) -> SchemaChange {
    let member = membership_function_name(checked);
    let call = |row: &str| {
        let organization = Mappings::Real.organization_of(
            checked,
            memberships.organization_to.as_deref(),
            "o",
            (row, &memberships.table, &memberships.organization),
        );
        format!(
            "perform {member}({}, (select o.organization_id from (values (1)) one join {organization}))",
            user_key(checked, &format!("{row}.{}", quote(&memberships.user)), memberships.user_to.as_ref()),
        )
    };
    let work = format!(
        "    if tg_op <> 'INSERT' then {}; end if;\n    if tg_op <> 'DELETE' then {}; end if;\n",
        call("old"),
        call("new")
    );
    followed(checked, "memberships", &memberships.table, &work)
}

/// The trigger on a table: it fills in the organization of new rows, and again when one of the sources changes.
pub fn on_table(checked: &Checked, table: &CheckedTable) -> SchemaChange {
    let inference = inference(checked, table, Mappings::Real);
    let columns = table.source_columns();
    // A generated column is empty until the row is stored: its expression tells what it will be.
    let value = |name: &&str| match table.info.column(name).and_then(|column| column.generation.as_ref()) {
        Some(expression) => format!("({expression})"),
        None => format!("r.{}", quote(name)),
    };
    let generated =
        columns.iter().any(|name| table.info.column(name).is_some_and(|column| column.generation.is_some()));
    let row: Vec<String> = columns.iter().map(|name| format!("{} as {}", value(name), quote(name))).collect();
    let row = [row, conditions(table)].concat();
    let row = if row.is_empty() { "1".to_owned() } else { row.join(", ") };
    let mut unmoved: Vec<String> = columns
        .iter()
        .map(|name| format!("(select {} from (select new.*) r) is not distinct from old.{}", value(name), quote(name)))
        .collect();
    let held = table.spec.organization.iter().filter_map(Source::condition);
    unmoved.extend(held.map(|condition| {
        format!("(select ({condition}) from (select new.*) r) is not distinct from (select ({condition}) from (select old.*) r)")
    }));
    let ask = format!(
        "select {} into v_organization from (select {row} from (select new.*) r) b{}",
        inference.organization(),
        inference.joins
    );
    let meet = meeting(checked, table, value);
    let column = quote(table.column());
    let body = format!(
        "declare
    v_organization uuid;
    v_before uuid;
    v_role text;
    v_trusted boolean := false;
begin
    if tg_op = 'UPDATE' then v_before := old.{column}; end if;
    if new.{column} is distinct from v_before then
        -- Inside of this function current_user is its owner.
        v_role := nullif(current_setting('role'), 'none');
        v_role := coalesce(v_role, session_user);
        -- Of ours, who sets it knows better. What others give counts only in a column that they had before, and only if
        -- it is an organization of theirs.
        v_trusted := pg_has_role(v_role, 'tenantry_app', 'usage') or pg_has_role(v_role, 'tenantry_superadmin', 'usage')
            or exists (select from tenantry.adopt_organizations where adoption = {adoption} and organization_id = new.{column})
               and not exists (select from tenantry.adopt_changes where adoption = {adoption} and what = {added});
        if v_trusted then return new; end if;
        new.{column} := v_before;
    end if;
    if tg_op = 'UPDATE' and {unmoved} then return new; end if;
    {ask};
    if v_organization is null then
{meet}        {ask};
    end if;
    if v_organization is not null and v_organization is distinct from new.{column} then
        new.{column} := v_organization;
        insert into tenantry.adopt_batches (adoption, table_name, keys, organizations, sources)
        values ({adoption}, {label}, array[{key}], array[v_organization], '{{0}}');
    end if;
    return new;
exception when others then
    raise warning 'the organization of a row of % was not found: %', {label}, sqlerrm;
    if not v_trusted and new.{column} is distinct from v_organization then new.{column} := v_before; end if;
    return new;
end",
        adoption = literal(&checked.plan.name),
        unmoved = if columns.is_empty() { "true".to_owned() } else { unmoved.join(" and ") },
        added = literal(&format!("column on {}", table.relation().sql())),
        label = literal(&table.label()),
        key = table.key_text("new"),
    );
    let sql = table.relation().sql();
    let mut change = change(checked, &table.label(), &sql, "before insert", &body);
    // No other adoption can have this name. Who may update any column may update this one. The batches of a run, with
    // our own login, skip it.
    let trigger = quote(&format!("{} own", trigger_name(&checked.plan.name)));
    let drop_it = format!("drop trigger if exists {trigger} on {sql}");
    // Also when a trigger of the team changes a source, which no list of columns would tell; and not for the batches of a run,
    // which change none. A condition cannot name generated columns, and what a source's condition reads is not known: then the
    // function looks.
    let on_update = quote(&format!("{} moves", trigger_name(&checked.plan.name)));
    let moved = format!("drop trigger if exists {on_update} on {sql}");
    let changed: Vec<String> =
        columns.iter().map(|name| format!("new.{0} is distinct from old.{0}", quote(name))).collect();
    let looks = generated || table.spec.organization.iter().any(|source| source.condition().is_some());
    let when = if looks || changed.is_empty() { String::new() } else { format!(" when ({})", changed.join(" or ")) };
    change.statements.extend([
        drop_it.clone(),
        moved.clone(),
        format!(
            "create trigger {on_update} before update on {sql} for each row{when} execute function {}()",
            fill_function(checked, &table.label())
        ),
        format!(
            "create trigger {trigger} before update of {column} on {sql} for each row when (new.{column} is distinct from old.{column} and not pg_has_role('tenantry_superadmin', 'usage')) execute function {}()",
            fill_function(checked, &table.label())
        ),
    ]);
    change.undo = format!("{drop_it}; {moved}; {}", change.undo);
    change
}

/// The statements that adopt the users whom a new row names. `value` is a column of the row in SQL.
fn meeting(checked: &Checked, table: &CheckedTable, value: impl Fn(&&str) -> String) -> String {
    table
        .spec
        .organization
        .iter()
        .filter_map(|source| match source {
            Source::User { user, to, r#where } => {
                let holds = r#where.as_ref().map_or_else(String::new, |condition| format!(" where {condition}"));
                let user = format!("(select {} from (select new.*) r{holds})", value(&user.as_str()));
                let key = user_key(checked, &user, to.as_ref());
                let meet = newcomer_function_name(checked);
                Some(format!("        if {user} is not null then perform {meet}({key}); end if;\n"))
            }
            _ => None,
        })
        .collect()
}

/// The name comes from the table and not from its place in the plan, which may change between runs.
fn fill_function(checked: &Checked, table: &str) -> String {
    format!("tenantry.{}", quote(&short_name(&format!("adopt_fill_{}_{table}", checked.plan.name))))
}

fn change(checked: &Checked, label: &str, table: &str, event: &str, body: &str) -> SchemaChange {
    let trigger = quote(&trigger_name(&checked.plan.name));
    let function = fill_function(checked, label);
    SchemaChange {
        what: format!("trigger on {table}"),
        statements: vec![
            format!(
                "create or replace function {function}() returns trigger language plpgsql security definer set search_path = {FUNCTION_PATH} set datestyle = iso as {}",
                literal(body)
            ),
            format!("revoke execute on function {function}() from public"),
            format!("drop trigger if exists {trigger} on {table}"),
            format!("create trigger {trigger} {event} on {table} for each row execute function {function}()"),
        ],
        undo: format!("drop trigger if exists {trigger} on {table}; drop function if exists {function}()"),
    }
}
