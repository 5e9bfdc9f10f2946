//! Writes the mapping to a CSV or JSON file: each user, organization and row, its organization, and the source or the
//! reason why there is none.

use std::io::{BufWriter, Write};
use std::path::Path;

use futures_util::TryStreamExt as _;
use serde::Serialize;

use super::check::{Checked, check};
use super::installed::{Wanted, check_installed};
use super::run::source_names;
use super::{AdoptError, OwnerConnection, Plan, Result, doing};
use crate::error::Code;

/// One line of the report.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Line {
    /// The table.
    table_name: String,
    /// The key of the row.
    key: String,
    /// The organization before: the current one of a user, none for rows.
    before: Option<String>,
    /// The organization now.
    after: Option<String>,
    /// Its slug.
    slug: Option<String>,
    /// `processed`, `skipped`, `assigned`, `unresolved`.
    status: String,
    /// Which source decided.
    source: Option<String>,
    /// Why there is none.
    reason: Option<String>,
}

const COLUMNS: [&str; 8] =
    ["table", "key", "organization_before", "organization_after", "slug", "status", "source", "reason"];

const LINES: &str = "
    select '[organization]' as table_name, a.legacy_id as key, null as before, a.organization_id::text as after, o.slug as slug,
           'processed' as status, null as source, null as reason
      from tenantry.adopt_organizations a left join tenantry.organizations o on o.id = a.organization_id where a.adoption = $1
    union all
    select '[user]', u.legacy_id, u.current_before::text, u.organization_id::text, o.slug, u.outcome, null, u.reason
      from tenantry.adopt_users u left join tenantry.organizations o on o.id = u.organization_id where u.adoption = $1
    union all
    select b.table_name, r.key, null, r.organization::text, o.slug, 'assigned', r.source::text, null
      from tenantry.adopt_batches b cross join lateral unnest(b.keys, b.organizations, b.sources) as r(key, organization, source)
      left join tenantry.organizations o on o.id = r.organization where b.adoption = $1
    union all
    select u.table_name, u.key, null, null, null, 'unresolved', null, u.reason from tenantry.adopt_unresolved u where u.adoption = $1";

enum Format {
    Csv,
    Json,
}

/// Writes the report and returns the number of lines. The file appears complete or not at all.
pub async fn write_report(session: &mut OwnerConnection, plan: Plan, path: &Path) -> Result<u64> {
    let format = match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => Format::Csv,
        Some("json") => Format::Json,
        _ => {
            return Err(AdoptError::refused(
                Code::BadReport,
                format!("{}: a report is a .csv or a .json file", path.display()),
            ));
        }
    };
    check_installed(session, Wanted::Read).await?;
    let checked = check(session, plan, Wanted::Read).await?;
    let mut making = path.as_os_str().to_owned();
    making.push(".part");
    let result = write(session, &checked, Path::new(&making), &format).await;
    match result {
        Ok(count) => {
            std::fs::rename(&making, path)?;
            Ok(count)
        }
        Err(error) => {
            // Nobody needs the incomplete file.
            std::fs::remove_file(&making).ok();
            Err(error)
        }
    }
}

async fn write(session: &mut OwnerConnection, checked: &Checked, path: &Path, format: &Format) -> Result<u64> {
    let names = source_names(checked);
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    match format {
        Format::Csv => writeln!(file, "{}", COLUMNS.join(","))?,
        Format::Json => file.write_all(b"[")?,
    }
    let mut lines = sqlx::query_as::<_, Line>(LINES).bind(&checked.plan.name).fetch(session.conn());
    let mut count = 0;
    while let Some(mut line) = lines.try_next().await.map_err(doing("writing the report"))? {
        if let Some(number) = line.source.take() {
            let number: usize = number.parse().unwrap_or(0);
            line.source = match number.checked_sub(1) {
                None => Some("live write".to_owned()),
                Some(index) => names.get(&line.table_name).and_then(|names| names.get(index)).cloned(),
            };
        }
        match format {
            Format::Csv => {
                let Line { table_name, key, before, after, slug, status, source, reason } = &line;
                let optional = [before, after, slug].map(|value| value.as_deref().unwrap_or(""));
                let rest = [source, reason].map(|value| value.as_deref().unwrap_or(""));
                let cells = [table_name, key]
                    .map(String::as_str)
                    .into_iter()
                    .chain(optional)
                    .chain([status.as_str()])
                    .chain(rest);
                let cells: Vec<String> = cells.map(cell).collect();
                writeln!(file, "{}", cells.join(","))?;
            }
            Format::Json => {
                file.write_all(if count == 0 { b"\n" } else { b",\n" })?;
                serde_json::to_writer(&mut file, &line).map_err(std::io::Error::other)?;
            }
        }
        count += 1;
    }
    if matches!(format, Format::Json) {
        file.write_all(b"\n]\n")?;
    }
    file.flush()?;
    Ok(count)
}

/// A cell as in RFC 4180. A text that a spreadsheet would evaluate as a formula gets an apostrophe.
fn cell(text: &str) -> String {
    let guarded =
        if text.starts_with(['=', '+', '@', '\t', '\r']) || text.starts_with('-') && text.parse::<f64>().is_err() {
            format!("'{text}")
        } else {
            text.to_owned()
        };
    if guarded.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", guarded.replace('"', "\"\"")) } else { guarded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"\n", "\"say \"\"x\"\"\n\""),
            ("=1+1", "'=1+1"),
            ("-5", "-5"),
            ("-cmd", "'-cmd"),
        ] {
            assert_eq!(cell(text), expected);
        }
    }
}
