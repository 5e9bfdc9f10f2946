//! While the old application still writes, it knows no organizations. A trigger on each table fills in the organization
//! of its new rows, from the same sources, and makes newcomers users of Tenantry when their first row arrives.
//!
//! The functions run with the rights of the owner, since the old application's login sees nothing of `adopt`. A failure
//! in them never fails the write of the old application: the row stays without an organization for the next run.

use super::COLUMN;
use super::check::{Checked, CheckedTable};
use super::infer::{Mappings, inference};
use super::name::{literal, quote};
use super::people::resolution;
use super::plan::Source;

/// Between the part of an undo that needs a short strong lock and the part that runs long under a weak one.
pub const THEN: &str = "; -- and then, by itself:\n";

/// One change of the schema: what it is, its statements, and what takes it back.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its name in the record.
    pub what: String,
    /// What makes it.
    pub statements: Vec<String>,
    /// What takes it back: at once, or in two parts with [`THEN`] between them. Both can be done again.
    pub undo: String,
}

/// The name of the trigger and, with the number of the table, of its function.
pub fn trigger_name(checked: &Checked) -> String {
    format!("adopt_{}", checked.plan.name)
}

fn meet_function(checked: &Checked) -> String {
    format!("adopt.{}", quote(&format!("meet_{}", checked.plan.name)))
}

/// Adopts one user by its legacy id.
pub fn meet(checked: &Checked) -> Change {
    let plan = &checked.plan;
    let info = checked.catalogue.get(&plan.users.table);
    let id_type = info.and_then(|info| info.column(&plan.users.id)).map_or("text", |column| column.data_type.as_str());
    let condition = format!("u.{} = p_legacy_id::{id_type}", quote(&plan.users.id));
    let body = format!(
        "begin
    perform adopt.adopt_user({}, r.legacy_id, r.clerk_id, r.email, r.name, r.organization_id, r.reason, r.memberships, {},
                             array[adopt.uuid_v7(), adopt.uuid_v7(), adopt.uuid_v7()])
       from ({}) r;
end",
        literal(&plan.name),
        literal(plan.workspaces.newcomers().word()),
        resolution(checked, Mappings::Real, &condition)
    );
    let function = meet_function(checked);
    Change {
        what: format!("function {function}"),
        statements: vec![
            format!(
                "create or replace function {function}(p_legacy_id text) returns void language plpgsql security definer set search_path = pg_catalog, public, pg_temp as {}",
                literal(&body)
            ),
            format!("revoke execute on function {function}(text) from public"),
        ],
        undo: format!("drop function if exists {function}(text)"),
    }
}

/// A user who registers in the old application is met at once. Where users get their organization from memberships,
/// those come after the user: then the first row of theirs is the moment.
pub fn on_users(checked: &Checked) -> Option<Change> {
    let plan = &checked.plan;
    if plan.organizations.is_some() {
        return None;
    }
    let body = format!(
        "begin
    perform {}(new.{}::text);
    return null;
exception when others then
    raise warning 'adopting user % failed: %', new.{}, sqlerrm;
    return null;
end",
        meet_function(checked),
        quote(&plan.users.id),
        quote(&plan.users.id),
    );
    Some(change(checked, "users", &plan.users.table.sql(), "after insert", &body))
}

/// Fills in the organization of new rows, and again when one of its sources changes.
pub fn on_table(checked: &Checked, number: usize, table: &CheckedTable) -> Change {
    let inference = inference(checked, table, Mappings::Real);
    let columns = table.source_columns();
    let row: Vec<String> = columns.iter().map(|name| format!("new.{0} as {0}", quote(name))).collect();
    let row = if row.is_empty() { "1".to_owned() } else { row.join(", ") };
    let ask =
        format!("select {} into v_organization from (select {row}) b{}", inference.organization(), inference.joins);
    let meet: String = table
        .spec
        .organization
        .iter()
        .filter_map(|source| match source {
            Source::User { user } => Some(format!(
                "        if new.{0} is not null then perform {1}(new.{0}::text); end if;\n",
                quote(user),
                meet_function(checked)
            )),
            _ => None,
        })
        .collect();
    let column = quote(COLUMN);
    let body = format!(
        "declare
    v_organization uuid;
begin
    -- Who sets it knows better.
    if tg_op = 'INSERT' then
        if new.{column} is not null then return new; end if;
    elsif new.{column} is distinct from old.{column} then
        return new;
    end if;
    {ask};
    if v_organization is null then
{meet}        {ask};
    end if;
    if v_organization is not null and v_organization is distinct from new.{column} then
        new.{column} := v_organization;
        insert into adopt.batches (adoption, table_name, keys, organizations, sources)
        values ({adoption}, {label}, array[{key}], array[v_organization], '{{0}}');
    end if;
    return new;
exception when others then
    raise warning 'the organization of a row of % was not found: %', {label}, sqlerrm;
    return new;
end",
        adoption = literal(&checked.plan.name),
        label = literal(&table.label()),
        key = table.key_text("new"),
    );
    let mut event = "before insert".to_owned();
    if !columns.is_empty() {
        let list: Vec<String> = columns.iter().map(|name| quote(name)).collect();
        event += &format!(" or update of {}", list.join(", "));
    }
    change(checked, &number.to_string(), &table.relation().sql(), &event, &body)
}

fn change(checked: &Checked, number: &str, table: &str, event: &str, body: &str) -> Change {
    let trigger = quote(&trigger_name(checked));
    let function = format!("adopt.{}", quote(&format!("fill_{}_{number}", checked.plan.name)));
    Change {
        what: format!("trigger on {table}"),
        statements: vec![
            format!(
                "create or replace function {function}() returns trigger language plpgsql security definer set search_path = pg_catalog, public, pg_temp set datestyle = iso as {}",
                literal(body)
            ),
            format!("revoke execute on function {function}() from public"),
            format!("drop trigger if exists {trigger} on {table}"),
            format!("create trigger {trigger} {event} on {table} for each row execute function {function}()"),
        ],
        undo: format!("drop trigger if exists {trigger} on {table}; drop function if exists {function}()"),
    }
}
