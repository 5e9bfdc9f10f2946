//! The start-up check of roles: a server whose API role could see around row-level security does not start.

use crate::db::{Conn, Db};
use crate::error::Result;

/// Why a role must not be used for the API, or cannot be used for the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleFinding {
    pub role: String,
    /// What is wrong with it and what to do.
    pub problem: String,
}

#[expect(clippy::struct_excessive_bools, reason = "five independent facts of the catalogue")]
struct Facts {
    name: String,
    superuser: bool,
    bypassrls: bool,
    owner: bool,
    superadmin: bool,
    app: bool,
}

async fn facts(connection: &mut Conn) -> sqlx::Result<Facts> {
    connection.has_begun();
    let row: (String, bool, bool, bool, bool, bool) = sqlx::query_as(
        "select r.rolname::text, r.rolsuper, r.rolbypassrls,
                exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                        where (n.nspname = 'tenantry' or c.relrowsecurity) and c.relkind in ('r', 'p')
                          and pg_has_role(current_user, c.relowner, 'usage')),
                coalesce((select pg_has_role(current_user, s.oid, 'member') from pg_roles s where s.rolname = 'tenantry_superadmin'), false),
                coalesce((select pg_has_role(current_user, a.oid, 'usage') from pg_roles a where a.rolname = 'tenantry_app'), false)
           from pg_roles r where r.rolname = current_user",
    )
    .fetch_one(connection)
    .await?;
    let (name, superuser, bypassrls, owner, superadmin, app) = row;
    Ok(Facts { name, superuser, bypassrls, owner, superadmin, app })
}

/// Checks the roles behind both pools. An empty list is good.
pub async fn check_roles(db: &Db) -> Result<Vec<RoleFinding>> {
    let mut findings = Vec::new();
    let mut find = |role: &str, problem: &str| {
        findings.push(RoleFinding { role: role.to_owned(), problem: problem.to_owned() });
    };
    let app = db.app_statement(|connection| Box::pin(facts(connection))).await?;
    if app.superuser {
        find(
            &app.name,
            "is a superuser, which row-level security does not bind: let DATABASE_URL log in as a member of tenantry_app",
        );
    }
    if app.bypassrls {
        find(
            &app.name,
            "has BYPASSRLS: `alter role … nobypassrls`, or let DATABASE_URL log in as another member of tenantry_app",
        );
    }
    if app.owner && !app.superuser {
        find(
            &app.name,
            "owns tables: keep the owner in MIGRATION_DATABASE_URL only, and let DATABASE_URL log in as a member of tenantry_app",
        );
    }
    if app.superadmin && !app.superuser {
        find(
            &app.name,
            "is a member of tenantry_superadmin, which sees every tenant: revoke it, or use another role in DATABASE_URL",
        );
    }
    if !app.app {
        find(&app.name, "is not a member of tenantry_app: `grant tenantry_app to …`");
    }
    let system = facts(&mut db.system.take().await?).await?;
    if !system.superadmin {
        find(&system.name, "is not a member of tenantry_superadmin: let SUPERADMIN_DATABASE_URL log in as one");
    }
    Ok(findings)
}
