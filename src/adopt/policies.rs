//! Permissive policies are joined by OR: one that holds for the API's roles opens what `tenant` closes.

use sqlx::AssertSqlSafe;

use super::check::{Checked, CheckedTable};
use super::name::quote;
use super::{Result, Session, doing};

/// `tenantry_app` and the logins that act with its rights; those whom row-level security does not bind, or who see
/// everything as `tenantry_superadmin`, are none of the API's (`tenantry verify` refuses them there).
const API: &str = "(select r.oid from pg_roles r
   where r.rolname = 'tenantry_app'
      or not r.rolsuper and not r.rolbypassrls and pg_has_role(r.oid, 'tenantry_app', 'usage') and not pg_has_role(r.oid, 'tenantry_superadmin', 'usage'))";

/// Policies that the API's roles must not have on a table: everybody's, and those of roles whose rights they inherit.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OpenPolicy {
    /// Its name.
    pub name: String,
    /// Whom of the API it holds for.
    pub for_whom: String,
}

/// What is wrong with `keep_access`: roles whose policy would hold for the API as well.
pub async fn shared_with_the_api(session: &mut Session, checked: &Checked) -> Result<Vec<String>> {
    let sql = format!(
        "select k.name, string_agg(a.oid::regrole::text, ', ' order by a.oid::regrole::text)
           from unnest($1::text[]) k(name)
           left join pg_roles r on r.rolname = k.name
           join {API} a on case when k.name = 'public' then true else pg_has_role(a.oid, r.oid, 'usage') end
          group by k.name order by k.name"
    );
    let found: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(&checked.plan.keep_access)
        .fetch_all(session.conn())
        .await
        .map_err(doing("looking at the roles of keep_access"))?;
    let problem = |(role, whom): (String, String)| {
        if role == "public" {
            "keep_access: \"public\" is everybody, tenantry_app too: every tenant's rows would be open to all others. Name the old application's login, and if its access is by PUBLIC, `grant` it to that login and `revoke` it from public".to_owned()
        } else {
            format!(
                "keep_access: {whom} has the rights of \"{role}\": every tenant's rows would be open to the API. Let the old application have a login of its own, or `revoke {} from …`",
                quote(&role)
            )
        }
    };
    Ok(found.into_iter().map(problem).collect())
}

/// What is wrong with the table's policies: none but our own may hold for the API, and none of the team's may bear our
/// names.
pub async fn problems(
    session: &mut Session,
    checked: &Checked,
    table: &CheckedTable,
    before: Before,
) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let (label, sql, keep) = (table.label(), table.relation().sql(), keep_name(&checked.plan.name));
    if !before.finalized {
        for name in in_the_way(session, table, &["tenant", "superadmin", &keep]).await? {
            problems.push(format!(
                "{label}: has a policy \"{name}\" of yours, and ours needs the name: `alter policy {} on {sql} rename to {}`",
                quote(&name),
                quote(&format!("legacy_{name}"))
            ));
        }
    }
    for policy in open(session, table, before.finalized).await? {
        // Ours is made anew, for the roles of the plan, which are looked at by themselves.
        if !(before.finalized && policy.name == keep) {
            problems.push(format!("{label}: {}", policy.problem(table)));
        }
    }
    Ok(problems)
}

/// The name of the policy for all rows of the old application's logins.
pub fn keep_name(adoption: &str) -> String {
    format!("adopt_keep_{adoption}")
}

/// Permissive policies of the table that hold for the API, but for our own two; `finalized` says whether those that bear
/// our names are ours.
pub async fn open(session: &mut Session, table: &CheckedTable, finalized: bool) -> Result<Vec<OpenPolicy>> {
    let sql = format!(
        "select p.polname::text as name, coalesce(string_agg(a.oid::regrole::text, ', ' order by a.oid::regrole::text), '') as for_whom
           from pg_policy p
           join {API} a on exists (select from unnest(p.polroles) x(role)
                                    where case when x.role = 0 then true else pg_has_role(a.oid, x.role, 'usage') end)
          where p.polrelid = to_regclass($1) and p.polpermissive and not ($2 and p.polname = 'tenant')
          group by p.polname order by p.polname"
    );
    sqlx::query_as(AssertSqlSafe(sql))
        .bind(table.relation().sql())
        .bind(finalized)
        .fetch_all(session.conn())
        .await
        .map_err(doing("looking at the policies"))
}

/// Policies of the team's under names that ours need.
async fn in_the_way(session: &mut Session, table: &CheckedTable, names: &[&str]) -> Result<Vec<String>> {
    sqlx::query_scalar(
        "select p.polname::text from pg_policy p where p.polrelid = to_regclass($1) and p.polname = any ($2) order by 1",
    )
    .bind(table.relation().sql())
    .bind(names)
    .fetch_all(session.conn())
    .await
    .map_err(doing("looking at the policies"))
}

impl OpenPolicy {
    /// What is wrong with it, and what to do.
    pub fn problem(&self, table: &CheckedTable) -> String {
        format!(
            "policy {0} holds for {1} as well, and policies are joined by OR: it would open other tenants' rows to the API. Give it to the old application's login only: `alter policy {0} on {2} to <its login>`, or drop it",
            quote(&self.name),
            self.for_whom,
            table.relation().sql()
        )
    }
}

/// What the table's row-level security was before the adoption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// It was enabled: the old application's logins have policies of their own.
    pub enabled: bool,
    /// It bound the owner, too.
    pub forced: bool,
    /// The policies of this adoption are there.
    pub finalized: bool,
}

/// Looks it up: in the catalogue, or, after `finalize`, in what takes it back.
pub async fn before(session: &mut Session, checked: &Checked, table: &CheckedTable) -> Result<Before> {
    let undo: Option<String> =
        sqlx::query_scalar("select undo from tenantry.adopt_changes where adoption = $1 and what = $2")
            .bind(&checked.plan.name)
            .bind(change_name(table))
            .fetch_optional(session.conn())
            .await
            .map_err(doing("reading the record"))?;
    Ok(match undo {
        Some(undo) => Before {
            enabled: !undo.contains(" disable row level security"),
            forced: !undo.contains(" no force row level security"),
            finalized: true,
        },
        None => Before { enabled: table.info.row_security, forced: table.info.force_row_security, finalized: false },
    })
}

/// The name under which the table's row-level security is recorded.
pub fn change_name(table: &CheckedTable) -> String {
    format!("row-level security on {}", table.relation().sql())
}

/// The roles that get a policy for all rows until the cut-over: as many as saw all rows before. Where there was row-level
/// security, that is at most the owner; others keep the policies they had.
pub fn kept<'a>(checked: &'a Checked, table: &CheckedTable, before: Before) -> Vec<&'a String> {
    let saw_all = |role: &&String| !before.enabled || !before.forced && **role == table.info.owner;
    checked.plan.keep_access.iter().filter(saw_all).collect()
}
