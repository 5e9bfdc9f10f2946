//! Fields under one name in the answer must be one field: GraphQL specification, section 5.3.2 "Field Selection Merging".
//!
//! The specification compares all pairs. Here each group is compared with its first field, because to have the same shape,
//! or to be the same field, is transitive; so the cost is the length of the expanded document. (Fields of interfaces are
//! looked at once for each type they stand beside. The only interface of the schema has fields without selections.)

use std::collections::{HashMap, HashSet, VecDeque};

use async_graphql::parser::types::{BaseType, Field, FragmentDefinition, Selection, SelectionSet, Type};
use async_graphql::{Name, Positioned};

use super::super::catalog::{self, Catalog, Composite};
use super::super::told::Short;
use super::Faults;

const RULE: &str = "OverlappingFieldsCanBeMerged";

/// A selection set and the type it is of.
type Set<'a> = (&'a SelectionSet, Option<&'a Composite>);

/// A field in its set.
struct Found<'a> {
    parent: &'a Composite,
    field: &'a Positioned<Field>,
    known: &'a catalog::Field,
}

struct Overlap<'a, 'f> {
    catalog: &'a Catalog,
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    faults: &'f mut Faults,
}

/// Checks a selection set. The other rules must have found nothing.
pub(super) fn check<'a>(
    set: &'a SelectionSet,
    root: Option<&'a Composite>,
    catalog: &'a Catalog,
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    faults: &mut Faults,
) {
    let mut overlap = Overlap { catalog, fragments, faults };
    overlap.shapes(&[(set, root)]);
    overlap.identities(&[(set, root)]);
}

impl<'a> Overlap<'a, '_> {
    /// The fields of sets that stand in one place, by their name in the answer. A fragment counts once.
    fn groups(&self, sets: &[Set<'a>]) -> HashMap<&'a str, Vec<Found<'a>>> {
        let mut groups: HashMap<&str, Vec<Found<'_>>> = HashMap::new();
        let mut seen = HashSet::new();
        let mut open: VecDeque<Set<'_>> = sets.iter().copied().collect();
        while let Some((set, parent)) = open.pop_front() {
            for selection in &set.items {
                match &selection.node {
                    Selection::Field(field) => {
                        let Some(parent) = parent else { continue };
                        if let Some(known) = self.catalog.field(parent, &field.node.name.node) {
                            let name = field.node.response_key().node.as_str();
                            groups.entry(name).or_default().push(Found { parent, field, known });
                        }
                    }
                    Selection::InlineFragment(fragment) => {
                        let condition = fragment.node.type_condition.as_ref();
                        let on = condition.map_or(parent, |on| self.catalog.composite(&on.node.on.node));
                        open.push_back((&fragment.node.selection_set.node, on));
                    }
                    Selection::FragmentSpread(spread) => {
                        let name = &spread.node.fragment_name.node;
                        if let Some(fragment) = self.fragments.get(name)
                            && seen.insert(name.as_str())
                        {
                            let on = self.catalog.composite(&fragment.node.type_condition.node.on.node);
                            open.push_back((&fragment.node.selection_set.node, on));
                        }
                    }
                }
            }
        }
        groups
    }

    /// What the fields select.
    fn below<'g>(&self, group: impl Iterator<Item = &'g Found<'a>>) -> Vec<Set<'a>>
    where
        'a: 'g,
    {
        let selecting = group.filter(|found| !found.field.node.selection_set.node.items.is_empty());
        let sets = selecting
            .map(|found| (&found.field.node.selection_set.node, self.catalog.composite(&found.known.type_name)));
        sets.collect()
    }

    /// `SameResponseShape`: whatever object an answer is of, a name is of one type.
    fn shapes(&mut self, sets: &[Set<'a>]) {
        for (name, group) in self.groups(sets) {
            if let Some((first, others)) = group.split_first() {
                for other in others {
                    if !self.same_shape(&first.known.ty, &other.known.ty) {
                        let message = format!(
                            "{}: {}.{} is of type {} and {}.{} of type {}. Give one of them an alias.",
                            Short(name),
                            first.parent.name,
                            first.field.node.name.node,
                            first.known.ty,
                            other.parent.name,
                            other.field.node.name.node,
                            other.known.ty
                        );
                        self.conflict(message, first, other);
                    }
                }
            }
            let below = self.below(group.iter());
            if !below.is_empty() && !self.faults.full() {
                self.shapes(&below);
            }
        }
    }

    fn same_shape(&self, one: &Type, other: &Type) -> bool {
        one.nullable == other.nullable
            && match (&one.base, &other.base) {
                (BaseType::List(one), BaseType::List(other)) => self.same_shape(one, other),
                (BaseType::Named(one), BaseType::Named(other)) => {
                    one == other || (self.catalog.composite(one).is_some() && self.catalog.composite(other).is_some())
                }
                _ => false,
            }
    }

    /// Fields that can be of one object are one field with the same arguments.
    fn identities(&mut self, sets: &[Set<'a>]) {
        for (name, group) in self.groups(sets) {
            let (abstracts, concrete): (Vec<_>, Vec<_>) = group.iter().partition(|found| found.parent.is_abstract);
            let mut classes: HashMap<&str, Vec<&Found<'_>>> = HashMap::new();
            for found in concrete {
                classes.entry(&found.parent.name).or_insert_with(|| abstracts.clone()).push(found);
            }
            if classes.is_empty() {
                classes.insert("", abstracts);
            }
            for class in classes.into_values() {
                self.identity(name, &class);
                let below = self.below(class.iter().copied());
                if !below.is_empty() && !self.faults.full() {
                    self.identities(&below);
                }
            }
        }
    }

    fn identity(&mut self, name: &str, class: &[&Found<'a>]) {
        let Some((first, others)) = class.split_first() else { return };
        for other in others {
            let message = if first.field.node.name.node != other.field.node.name.node {
                format!(
                    "{}: {}.{} and {}.{} are different fields. Give one of them an alias.",
                    Short(name),
                    first.parent.name,
                    first.field.node.name.node,
                    other.parent.name,
                    other.field.node.name.node
                )
            } else if same_arguments(&first.field.node, &other.field.node) {
                continue;
            } else {
                format!(
                    "{}: {}.{} stands here twice with different arguments. Give one of them an alias.",
                    Short(name),
                    first.parent.name,
                    first.field.node.name.node
                )
            };
            self.conflict(message, first, other);
        }
    }

    fn conflict(&mut self, message: String, first: &Found<'_>, other: &Found<'_>) {
        let pos = first.field.pos.max(other.field.pos);
        self.faults.add(RULE, message, pos);
    }
}

fn same_arguments(one: &Field, other: &Field) -> bool {
    one.arguments.len() == other.arguments.len()
        && one
            .arguments
            .iter()
            .all(|(name, value)| other.get_argument(&name.node).is_some_and(|other| other.node == value.node))
}
