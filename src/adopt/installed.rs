//! Checks Tenantry's own tables: they exist, the login may use them, and no tables of the team are in their place.

use sqlx::PgConnection;

use super::name::quote;
use super::{AdoptError, OwnerConnection, Result, doing};
use crate::db::migrations::MIGRATOR;
use crate::error::Code;

/// What the login must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Read.
    Read,
    /// Change the tables and their rows.
    Write,
}

/// Refuses when Tenantry's own tables are missing, when tables of the team are in their place, or when the login may
/// not use them.
pub async fn check_installed(session: &mut OwnerConnection, wanted: Wanted) -> Result<()> {
    let (migrated, usable, read_only, who): (bool, bool, bool, String) = sqlx::query_as(
        "select exists (select from pg_class where relname = 'adoptions' and relnamespace = to_regnamespace('adopt')),
                coalesce(has_schema_privilege(to_regnamespace('adopt')::oid, 'usage'), false),
                pg_is_in_recovery() or current_setting('transaction_read_only')::bool, current_user::text",
    )
    .fetch_one(session.conn())
    .await
    .map_err(doing("looking at the database"))?;
    if !migrated {
        let collisions = collisions(session.conn()).await?;
        return Err(if collisions.is_empty() {
            AdoptError::refused(
                Code::NotMigrated,
                "Tenantry's tables are not in this database yet: run `tenantry migrate up` first",
            )
        } else {
            AdoptError::refused(Code::TablesInTheWay, collision_remedy(&collisions))
        });
    }
    if wanted == Wanted::Write && read_only {
        return Err(AdoptError::refused(
            Code::ReadOnly,
            format!(
                "{who} can only read here: this is a standby, or the role has default_transaction_read_only. Let MIGRATION_DATABASE_URL log in to the primary as the owner of the tables"
            ),
        ));
    }
    if !usable {
        return Err(AdoptError::refused(
            Code::NotOwner,
            format!(
                "{who} is not the owner of Tenantry's tables: let MIGRATION_DATABASE_URL log in as the role that ran `tenantry migrate up`"
            ),
        ));
    }
    Ok(())
}

/// Refuses while other roles may create objects in a schema on our search path: their function or operator could be the
/// better match and would run with our rights.
pub async fn refuse_open_schemas(session: &mut OwnerConnection) -> Result<()> {
    let found: Vec<(String, String)> = sqlx::query_as(
        "select n.nspname::text, case x.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(x.grantee)) end
           from pg_namespace n cross join aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x
          where (n.nspname = 'public' or n.nspname = any (current_schemas(false))) and x.privilege_type = 'CREATE'
            and (x.grantee = 0
                 or exists (select from pg_roles r
                             where pg_has_role(r.oid, x.grantee, 'member') and not r.rolsuper
                               and r.rolcanlogin and r.rolname <> current_user and not pg_has_role(r.oid, n.nspowner, 'member')))
          order by 1, 2",
    )
    .fetch_all(session.conn())
    .await
    .map_err(doing("looking at the schemas"))?;
    if found.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = found
        .iter()
        .map(|(schema, role)| {
            let schema = quote(schema);
            format!("{role} may create objects in schema {schema}, where they could take the place of functions and operators that run with the owner's rights: `revoke create on schema {schema} from {role}`")
        })
        .collect();
    Err(AdoptError::refused(Code::SchemaOpen, lines.join("\n")))
}

/// Tables of the team in `public` under the names that Tenantry's migrations make. Empty once Tenantry is installed.
pub async fn collisions(connection: &mut PgConnection) -> Result<Vec<String>> {
    let ours: Vec<String> = MIGRATOR
        .iter()
        .filter(|migration| migration.migration_type.is_up_migration())
        .flat_map(|migration| migration.sql.as_str().lines())
        .filter_map(|line| line.strip_prefix("create table ").or_else(|| line.strip_prefix("create type ")))
        .filter_map(|rest| rest.split([' ', '(']).next())
        .filter(|name| !name.contains('.'))
        .map(str::to_owned)
        .collect();
    sqlx::query_scalar(
        "select c.relname::text from pg_class c
          where c.relnamespace = 'public'::regnamespace and c.relname = any ($1) and c.relkind in ('r', 'p', 'v', 'm', 'f')
            and to_regclass('public._sqlx_migrations') is null
          order by 1",
    )
    .bind(ours)
    .fetch_all(connection)
    .await
    .map_err(doing("looking for tables in the way"))
}

/// What to do about collisions.
pub fn collision_remedy(tables: &[String]) -> String {
    let mut text = format!(
        "public has tables of yours under names that Tenantry's own tables need ({}). Move yours into a schema of their own, all of them, then run `tenantry migrate up`:\n\n  begin;\n  create schema legacy;\n",
        tables.join(", ")
    );
    for table in tables {
        text += &format!("  alter table public.{} set schema legacy;\n", quote(table));
    }
    text += "  commit;\n\nThe old application keeps finding them by its search path: `alter role <its login> set search_path = legacy, public`.\nForeign keys, indexes, sequences of serial columns and grants move along; views and functions that name public.… need a look, and the login needs `grant usage on schema legacy`.";
    text
}
