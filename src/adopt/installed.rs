//! Checks Tenantry's own tables: they exist, the login may use them, and their schema is nobody else's.

use super::name::quote;
use super::{AdoptError, OwnerConnection, Result, doing};
use crate::db::migrations::foreign_schema;
use crate::error::Code;

/// What the login must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Read.
    Read,
    /// Change the tables and their rows.
    Write,
    /// The same, to take back what was done, whatever has come in the way since.
    TakeBack,
}

/// Refuses when Tenantry's own tables are missing, when their schema is somebody else's, or when the login may not use
/// them.
pub async fn check_installed(session: &mut OwnerConnection, wanted: Wanted) -> Result<()> {
    let (migrated, usable, read_only, who): (bool, bool, bool, String) = sqlx::query_as(
        "select exists (select from pg_class where relname = 'adoptions' and relnamespace = to_regnamespace('tenantry')),
                coalesce((select has_schema_privilege(relnamespace, 'usage') and has_table_privilege(oid, 'insert') from pg_class
                           where relname = 'adoptions' and relnamespace = to_regnamespace('tenantry')), false),
                pg_is_in_recovery() or current_setting('transaction_read_only')::bool, current_user::text",
    )
    .fetch_one(session.conn())
    .await
    .map_err(doing("looking at the database"))?;
    if !migrated {
        let foreign = foreign_schema(session.conn()).await.map_err(doing("looking at the schemas"))?;
        return Err(match foreign {
            None => AdoptError::refused(
                Code::NotMigrated,
                "Tenantry's tables are not in this database yet: run `tenantry migrate up` first",
            ),
            Some(problem) => AdoptError::refused(Code::SchemaTaken, problem),
        });
    }
    if wanted != Wanted::Read && read_only {
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
