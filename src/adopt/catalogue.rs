//! What the database says of its tables: keys, foreign keys, owners, grants, triggers.

use std::collections::BTreeMap;

use serde::Deserialize;
use sqlx::types::Json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::Relation;

/// A table of the catalogue.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of the catalogue")]
#[derive(Clone, Debug, Deserialize)]
pub struct TableInfo {
    schema: String,
    name: String,
    /// `r` for an ordinary table, `p` for a partitioned one, `v` for a view and so on.
    pub kind: String,
    pub owner: String,
    /// Whether this login may change it: it is the owner or a member of the owner.
    pub owned: bool,
    /// Whether this login may read it.
    pub readable: bool,
    /// Whether row-level security hides rows from this login: it binds it, and no policy shows it everything.
    pub hidden: bool,
    /// Estimated number of rows. Negative when the table was never analyzed.
    pub rows: f64,
    /// Size in bytes, without indexes.
    pub bytes: i64,
    /// Whether row-level security is enabled.
    pub row_security: bool,
    /// Whether row-level security is forced.
    pub force_row_security: bool,
    /// The columns in order.
    pub columns: Vec<Column>,
    /// Unique keys without nulls, the primary key first.
    pub keys: Vec<Key>,
    /// The columns of all its unique keys, also of those that take nulls.
    pub unique: Vec<Vec<String>>,
    /// Foreign keys of this table.
    pub foreign_keys: Vec<ForeignKey>,
    /// First columns of its indexes.
    pub indexed: Vec<String>,
    /// The team's own row triggers that fire before an insert or an update.
    pub before_triggers: Vec<String>,
    /// The team's own triggers that fire on every updated row, or once for every statement that updates.
    pub update_triggers: Vec<String>,
    /// Tables whose rows it shows as well, or whose rows are among its own: `INHERITS`.
    pub relatives: Vec<String>,
    /// The table that this one is a partition of.
    pub partition_of: Option<String>,
    /// Roles other than the owner and ours that may read or write it.
    pub grantees: Vec<String>,
}

/// A column.
#[derive(Clone, Debug, Deserialize)]
pub struct Column {
    pub name: String,
    /// Its type in SQL.
    pub data_type: String,
    /// The same, or what it is a domain over.
    pub base_type: String,
    /// Its collation, quoted, where that is not the database's.
    pub collation: Option<String>,
    /// Whether different texts are equal: `citext`, and collations that are not deterministic.
    pub loose: bool,
    /// The expression over others of the row that it is computed from: its value is not known before the row is stored.
    pub generation: Option<String>,
    /// Whether it takes nulls.
    pub not_null: bool,
}

/// A unique key whose columns are not null.
#[derive(Clone, Debug, Deserialize)]
pub struct Key {
    /// Whether it is the primary key.
    pub primary: bool,
    /// Its columns in order.
    pub columns: Vec<String>,
}

/// A foreign key.
#[derive(Clone, Debug, Deserialize)]
pub struct ForeignKey {
    pub name: String,
    /// Columns of this table.
    pub columns: Vec<String>,
    target_schema: String,
    target_name: String,
    /// Referenced columns.
    pub target_columns: Vec<String>,
    /// Its definition as `PostgreSQL` prints it.
    pub definition: String,
    /// `ON DELETE`: a no action, r restrict, c cascade, n set null, d set default.
    pub on_delete: String,
    /// The columns that `ON DELETE SET NULL (…)` names, if it names them.
    pub delete_columns: Vec<String>,
    /// `MATCH FULL`.
    pub match_full: bool,
    /// Its comment.
    pub comment: Option<String>,
    /// `ON UPDATE`, likewise.
    pub on_update: String,
    /// Whether it is deferrable, and initially deferred.
    pub deferrable: bool,
    /// See `deferrable`.
    pub deferred: bool,
}

impl ForeignKey {
    /// A reference that only the data tells.
    pub fn inferred(column: &str, target: &Relation, key: &str) -> Self {
        Self {
            name: String::new(),
            columns: vec![column.to_owned()],
            target_schema: target.schema.clone(),
            target_name: target.name.clone(),
            target_columns: vec![key.to_owned()],
            definition: String::new(),
            on_delete: "a".to_owned(),
            delete_columns: Vec::new(),
            match_full: false,
            comment: None,
            on_update: "a".to_owned(),
            deferrable: false,
            deferred: false,
        }
    }

    /// The referenced table.
    #[must_use]
    pub fn target(&self) -> Relation {
        Relation::new(&self.target_schema, &self.target_name)
    }
}

impl TableInfo {
    /// Its name.
    #[must_use]
    pub fn relation(&self) -> Relation {
        Relation::new(&self.schema, &self.name)
    }

    /// The column with this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The primary key, else another unique key without nulls.
    #[must_use]
    pub fn key(&self) -> Option<&[String]> {
        self.keys.first().map(|key| key.columns.as_slice())
    }
}

/// The tables by name.
pub type Catalogue = BTreeMap<Relation, TableInfo>;

const QUERY: &str = "
select jsonb_build_object(
  'schema', n.nspname, 'name', c.relname, 'kind', c.relkind::text, 'owner', pg_get_userbyid(c.relowner),
  'owned', pg_has_role(current_user, c.relowner, 'usage'),
  'readable', has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'),
  'hidden', c.relkind in ('r', 'p') and row_security_active(c.oid)
     and (not exists (select from pg_policy p where p.polrelid = c.oid and p.polpermissive and p.polcmd in ('*', 'r') and pg_get_expr(p.polqual, p.polrelid) = 'true'
                         and exists (select from unnest(p.polroles) r where r = 0 or pg_has_role(r, 'usage')))
          or exists (select from pg_policy p where p.polrelid = c.oid and not p.polpermissive and p.polcmd in ('*', 'r')
                        and exists (select from unnest(p.polroles) r where r = 0 or pg_has_role(r, 'usage')))),
  'rows', c.reltuples, 'bytes', case when c.relkind = 'r' then pg_table_size(c.oid) else 0 end,
  'row_security', c.relrowsecurity, 'force_row_security', c.relforcerowsecurity,
  'columns', coalesce((select jsonb_agg(jsonb_build_object('name', a.attname, 'data_type', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
         'collation', (select format('%I.%I', cn.nspname, l.collname) from pg_collation l join pg_namespace cn on cn.oid = l.collnamespace where l.oid = a.attcollation and l.collname <> 'default'),
         'loose', coalesce((select not l.collisdeterministic from pg_collation l where l.oid = a.attcollation), false) or a.atttypid::regtype::text ~ '(^|\\.)citext$', 'generation', case when a.attgenerated <> '' then (select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d where d.adrelid = c.oid and d.adnum = a.attnum) end,
         'base_type', (select case t.typtype when 'd' then format_type(t.typbasetype, t.typtypmod) else format_type(a.atttypid, a.atttypmod) end from pg_type t where t.oid = a.atttypid)) order by a.attnum)
      from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '[]'),
  'keys', coalesce((select jsonb_agg(jsonb_build_object('primary', i.indisprimary, 'columns', k.columns) order by i.indisprimary desc, k.width, i.indexrelid)
      from pg_index i
      join lateral (select jsonb_agg(a.attname order by o.n) as columns, count(*) as width, bool_and(a.attnotnull) as filled
                      from unnest(i.indkey::int2[]) with ordinality o(attnum, n) join pg_attribute a on a.attrelid = c.oid and a.attnum = o.attnum
                     where o.n <= i.indnkeyatts) k on k.filled and k.width = i.indnkeyatts
     where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null), '[]'),
  'unique', coalesce((select jsonb_agg(k.columns order by i.indexrelid) from pg_index i
      join lateral (select jsonb_agg(a.attname order by o.n) as columns, count(*) as width from unnest(i.indkey::int2[]) with ordinality o(attnum, n) join pg_attribute a on a.attrelid = c.oid and a.attnum = o.attnum where o.n <= i.indnkeyatts) k on k.width = i.indnkeyatts
     where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null), '[]'),
  'foreign_keys', coalesce((select jsonb_agg(jsonb_build_object('name', f.conname,
         'columns', (select jsonb_agg(a.attname order by o.n) from unnest(f.conkey) with ordinality o(attnum, n) join pg_attribute a on a.attrelid = f.conrelid and a.attnum = o.attnum),
         'target_schema', tn.nspname, 'target_name', t.relname,
         'target_columns', (select jsonb_agg(a.attname order by o.n) from unnest(f.confkey) with ordinality o(attnum, n) join pg_attribute a on a.attrelid = f.confrelid and a.attnum = o.attnum),
         'definition', pg_get_constraintdef(f.oid), 'on_delete', f.confdeltype::text, 'on_update', f.confupdtype::text,
         'delete_columns', coalesce((select jsonb_agg(a.attname order by o.n) from unnest(f.confdelsetcols) with ordinality o(attnum, n) join pg_attribute a on a.attrelid = f.conrelid and a.attnum = o.attnum), '[]'),
         'match_full', f.confmatchtype = 'f', 'comment', obj_description(f.oid, 'pg_constraint'),
         'deferrable', f.condeferrable, 'deferred', f.condeferred) order by f.conname)
      from pg_constraint f join pg_class t on t.oid = f.confrelid join pg_namespace tn on tn.oid = t.relnamespace
     where f.conrelid = c.oid and f.contype = 'f'), '[]'),
  'indexed', coalesce((select jsonb_agg(distinct a.attname) from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
     where i.indrelid = c.oid and i.indisvalid and i.indpred is null), '[]'),
  'before_triggers', coalesce((select jsonb_agg(t.tgname order by t.tgname) from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_namespace pn on pn.oid = p.pronamespace
     where t.tgrelid = c.oid and not t.tgisinternal and t.tgtype & 1 <> 0 and t.tgtype & 2 <> 0 and t.tgtype & 20 <> 0 and pn.nspname <> 'tenantry'), '[]'),
  'update_triggers', coalesce((select jsonb_agg(t.tgname order by t.tgname) from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_namespace pn on pn.oid = p.pronamespace
     where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled in ('O', 'A') and t.tgtype & 16 <> 0 and pn.nspname <> 'tenantry'), '[]'),
  'relatives', coalesce((select jsonb_agg(r.name order by r.name) from (
         select i.inhrelid::regclass::text from pg_inherits i join pg_class k on k.oid = i.inhrelid where i.inhparent = c.oid and not k.relispartition
         union select i.inhparent::regclass::text from pg_inherits i where i.inhrelid = c.oid and not c.relispartition) r(name)), '[]'),
  'partition_of', (select i.inhparent::regclass::text from pg_inherits i where i.inhrelid = c.oid and c.relispartition limit 1),
  'grantees', coalesce((select jsonb_agg(distinct g.who) from (select case x.grantee when 0 then 'public' else pg_get_userbyid(x.grantee) end as who, x.grantee
        from aclexplode(c.relacl) x where x.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')) g
     where g.grantee <> c.relowner and g.who not in ('tenantry_app', 'tenantry_superadmin')), '[]'))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'tenantry')
  and n.nspname not like 'pg\\_temp\\_%'";

/// Reads all tables outside of the system schemas.
pub async fn read(connection: &mut PgConnection) -> sqlx::Result<Catalogue> {
    // Names of types and constraints' tables come with their schema, whatever the login's path is: what is made of them runs
    // under another path, in functions.
    let mut transaction = connection.begin().await?;
    transaction.execute("set local search_path = pg_catalog").await?;
    let rows: Vec<(Json<TableInfo>,)> = sqlx::query_as(QUERY).fetch_all(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok(rows.into_iter().map(|(Json(table),)| (table.relation(), table)).collect())
}

/// The name in `known` that is most similar to `wanted`, if one is similar at all.
pub fn did_you_mean<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| strsim::damerau_levenshtein(&wanted.to_lowercase(), &name.to_lowercase());
    known
        .map(|name| (likeness(name), name))
        .filter(|(d, _)| *d <= wanted.chars().count().max(6) / 3)
        .min()
        .map(|(_, name)| name)
}
