//! Checks the policies of the team. Permissive policies are combined by OR: one that applies to the API's roles would
//! show rows of other tenants.

use sqlx::AssertSqlSafe;

use super::check::{Checked, CheckedTable};
use super::name::quote;
use super::{OwnerConnection, Result, doing};

/// `tenantry_app` and the logins with its rights. Logins that row-level security does not bind, or that are members of
/// `tenantry_superadmin`, do not belong to the API: `tenantry verify` refuses them there.
pub(super) const API: &str = "(select r.oid from pg_roles r
   where r.rolname = 'tenantry_app'
      or not r.rolsuper and not r.rolbypassrls and pg_has_role(r.oid, 'tenantry_app', 'usage') and not pg_has_role(r.oid, 'tenantry_superadmin', 'usage'))";

/// A policy that applies to the API's roles: for PUBLIC, or for a role whose rights they inherit.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OpenPolicy {
    pub name: String,
    /// The role of the API that it applies to.
    pub for_whom: String,
}

/// Problems of `keep_access`: roles whose policy would apply to the API as well.
pub async fn shared_with_the_api(session: &mut OwnerConnection, checked: &Checked) -> Result<Vec<String>> {
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

/// Problems of the table's policies: only our own may apply to the API, and no policy of the team may have one of our
/// names.
pub async fn problems(
    session: &mut OwnerConnection,
    checked: &Checked,
    table: &CheckedTable,
    before: Before,
) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let (label, sql, keep) = (table.label(), table.relation().sql(), keep_name(&checked.plan.name));
    if !before.finalized {
        for name in conflicting_policies(session, table, &["tenant", "superadmin", &keep]).await? {
            problems.push(format!(
                "{label}: has a policy \"{name}\" of yours, and ours needs the name: `alter policy {} on {sql} rename to {}`",
                quote(&name),
                quote(&format!("legacy_{name}"))
            ));
        }
    }
    for policy in open(session, table, before.finalized).await? {
        // Our own is made again for the roles of the plan, which are checked separately.
        if !(before.finalized && policy.name == keep) {
            problems.push(format!("{label}: {}", policy.problem(table)));
        }
    }
    Ok(problems)
}

/// The name of the policy that shows all rows to the logins of the old application.
pub fn keep_name(adoption: &str) -> String {
    format!("adopt_keep_{adoption}")
}

/// Permissive policies of the table that apply to the API, without our own two. `finalized` says whether policies with
/// our names are ours.
pub async fn open(session: &mut OwnerConnection, table: &CheckedTable, finalized: bool) -> Result<Vec<OpenPolicy>> {
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

/// Policies of the team with names that ours need.
async fn conflicting_policies(
    session: &mut OwnerConnection,
    table: &CheckedTable,
    names: &[&str],
) -> Result<Vec<String>> {
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

/// The row-level security of the table before the adoption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// It was enabled: the logins of the old application have policies of their own.
    pub enabled: bool,
    /// It was forced: it also bound the owner.
    pub forced: bool,
    /// The policies of this adoption exist.
    pub finalized: bool,
}

/// Reads the row-level security before the adoption: from the catalogue, or, after `finalize`, from the recorded undo.
pub async fn security_before(session: &mut OwnerConnection, checked: &Checked, table: &CheckedTable) -> Result<Before> {
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

/// The roles that get a policy for all rows until the cut-over: those that saw all rows before. Where row-level
/// security was enabled, that is at most the owner; other roles keep their policies.
pub fn kept<'a>(checked: &'a Checked, table: &CheckedTable, before: Before) -> Vec<&'a String> {
    let saw_all = |role: &&String| !before.enabled || !before.forced && **role == table.info.owner;
    checked.plan.keep_access.iter().filter(saw_all).collect()
}
