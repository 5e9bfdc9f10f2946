//! The validation of documents: GraphQL specification (September 2025), section 5.
//!
//! The engine has rules of its own and they are not used: they miss some of the specification (values of arguments that
//! contain variables, fields whose selections conflict further down, `@skip` at the root of a subscription), some cost the
//! square of a document's length, and their messages name neither the place in the schema nor what would be right. These
//! rules are held against graphql-js: documents for every rule, and documents drawn from this schema (`tests/it/gates/validation.rs`).
//!
//! A document has passed [`limits`](super::limits) before: fragments exist, form no cycle, and are small when expanded. So
//! each rule may walk each definition once, and [`overlap`] the expanded selections.

mod overlap;
mod usages;
mod walk;

use std::collections::HashMap;

use async_graphql::parser::types::{ExecutableDocument, OperationType};
use async_graphql::{Pos, ServerError};

use self::walk::{Scope, Walk};
use super::catalog::Catalog;
use super::failure::{Failure, coded};
use super::variables::IdUse;
use crate::error::Code;

/// A document can have thousands of faults; so many are looked for.
const MOST: usize = 100;
/// So many come with a suggestion, each of which costs a comparison with all names of a type.
const SUGGESTED: usize = 20;

/// What is wrong with a document.
#[derive(Default)]
struct Faults {
    errors: Vec<ServerError>,
}

impl Faults {
    /// Notes a fault: the rule (by its name in graphql-js, which other tools use as well), what is wrong, and where.
    fn add(&mut self, rule: &'static str, message: String, pos: Pos) {
        self.add_error(rule, coded(Code::GraphqlValidationFailed, message, Some(pos)));
    }

    fn add_error(&mut self, rule: &'static str, mut error: ServerError) {
        if self.errors.len() < MOST {
            error.extensions.get_or_insert_default().set("rule", rule);
            self.errors.push(error);
        }
    }

    /// Whether no more are noted.
    fn full(&self) -> bool {
        self.errors.len() >= MOST
    }

    /// Whether suggestions are still made.
    fn suggest(&self) -> bool {
        self.errors.len() < SUGGESTED
    }
}

/// Refuses a document that does not fit the schema. Gives for each operation, in their order, the variables that stand
/// where ids of one type are expected.
pub(super) fn check(document: &ExecutableDocument, catalog: &Catalog) -> Result<Vec<Vec<IdUse>>, Failure> {
    let mut faults = Faults::default();
    let mut fragments: HashMap<&str, Scope<'_>> = HashMap::new();
    for (name, fragment) in &document.fragments {
        let mut walk = Walk::new(catalog, &document.fragments, &mut faults);
        walk.fragment(name, fragment);
        fragments.insert(name, walk.scope);
    }
    let mut ids = Vec::new();
    let mut used = std::collections::HashSet::new();
    for (name, operation) in document.operations.iter() {
        let mut walk = Walk::new(catalog, &document.fragments, &mut faults);
        walk.operation(operation);
        let scope = walk.scope;
        if operation.node.ty == OperationType::Subscription {
            walk::subscription(operation, document, &mut faults);
        }
        ids.push(usages::check(catalog, name, operation, &scope, &fragments, &mut used, &mut faults));
    }
    for (name, fragment) in &document.fragments {
        if !used.contains(name.as_str()) {
            let message = format!("The fragment {name} is spread nowhere: spread it or leave it out.");
            faults.add("NoUnusedFragments", message, fragment.pos);
        }
    }
    // What conflicts is looked for in what makes sense alone.
    if faults.errors.is_empty() {
        for (_, operation) in document.operations.iter() {
            let root = catalog.root(operation.node.ty);
            overlap::check(&operation.node.selection_set.node, root, catalog, &document.fragments, &mut faults);
        }
    }
    let Faults { mut errors } = faults;
    if errors.is_empty() {
        return Ok(ids);
    }
    // Operations and fragments come in no order.
    errors.sort_by(|a, b| (&a.locations, &a.message).cmp(&(&b.locations, &b.message)));
    errors.dedup_by(|a, b| a.locations == b.locations && a.message == b.message);
    Err(Failure::documents(errors))
}

#[cfg(test)]
mod tests;
