//! The rules that look at one definition at a time: fields, arguments, values, directives, fragments.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;

use async_graphql::parser::types::{
    Directive, DirectiveLocation, ExecutableDocument, Field, FragmentDefinition, OperationDefinition, OperationType,
    Selection, SelectionSet,
};
use async_graphql::{Name, Pos, Positioned, Value as ConstValue};
use async_graphql_value::Value;

use super::super::catalog::{self, Catalog, Composite, Inputs, Kind};
use super::super::told::{Coordinate, Path, Short};
use super::super::values::{Check, Expected, Usage};
use super::Faults;
use crate::error::Code;

/// What a definition uses.
#[derive(Debug, Default)]
pub(super) struct Scope<'a> {
    /// Variables, each once for each place of the schema, with the first position.
    pub(super) usages: HashMap<Usage, Pos>,
    /// Fragments.
    pub(super) spreads: HashSet<&'a str>,
}

/// What has arguments.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Field(&'a str, &'a str),
    Directive(&'a str),
}

impl<'a> Owner<'a> {
    fn coordinate(self, argument: &'a str) -> Coordinate<'a> {
        match self {
            Self::Field(parent, field) => Coordinate::Argument(parent, field, argument),
            Self::Directive(directive) => Coordinate::OfDirective(directive, argument),
        }
    }
}

/// Walks through one definition.
pub(super) struct Walk<'a, 'f> {
    catalog: &'a Catalog,
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    faults: &'f mut Faults,
    pub(super) scope: Scope<'a>,
}

impl<'a, 'f> Walk<'a, 'f> {
    pub(super) fn new(
        catalog: &'a Catalog,
        fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
        faults: &'f mut Faults,
    ) -> Self {
        Self { catalog, fragments, faults, scope: Scope::default() }
    }

    pub(super) fn operation(&mut self, operation: &'a Positioned<OperationDefinition>) {
        let location = match operation.node.ty {
            OperationType::Query => DirectiveLocation::Query,
            OperationType::Mutation => DirectiveLocation::Mutation,
            OperationType::Subscription => DirectiveLocation::Subscription,
        };
        self.directives(&operation.node.directives, location);
        for definition in &operation.node.variable_definitions {
            self.directives(&definition.node.directives, DirectiveLocation::VariableDefinition);
        }
        let root = self.catalog.root(operation.node.ty);
        if root.is_none() {
            let message = format!("There is no {} here: the schema has no such operations.", operation.node.ty);
            self.faults.add("FieldsOnCorrectType", message, operation.pos);
        }
        self.selection_set(&operation.node.selection_set.node, root);
    }

    pub(super) fn fragment(&mut self, name: &'a str, fragment: &'a Positioned<FragmentDefinition>) {
        if name == "on" {
            let message = "A fragment cannot be named `on`.".to_owned();
            self.faults.add("KnownFragmentNames", message, fragment.pos);
        }
        self.directives(&fragment.node.directives, DirectiveLocation::FragmentDefinition);
        let on = &fragment.node.type_condition.node.on;
        let parent = self.condition(on);
        self.selection_set(&fragment.node.selection_set.node, parent);
    }

    /// The type that a fragment is for.
    fn condition(&mut self, on: &'a Positioned<Name>) -> Option<&'a Composite> {
        match self.catalog.kind(&on.node) {
            Some(Kind::Composite(composite)) => Some(composite),
            Some(_) => {
                let message = format!("A fragment is for a type with fields; {} has none.", on.node);
                self.faults.add("FragmentsOnCompositeTypes", message, on.pos);
                None
            }
            None => {
                let near = self.near(&on.node, |catalog| Box::new(catalog.type_names()));
                let near = near.map(|near| format!(" Did you mean {near}?")).unwrap_or_default();
                let message = format!("There is no type {}.{near}", Short(&on.node));
                self.faults.add("KnownTypeNames", message, on.pos);
                None
            }
        }
    }

    fn near(
        &self,
        name: &str,
        known: impl FnOnce(&'a Catalog) -> Box<dyn Iterator<Item = &'a str> + 'a>,
    ) -> Option<&'a str> {
        if self.faults.suggest() { self.catalog.near(name, known(self.catalog)) } else { None }
    }

    fn selection_set(&mut self, set: &'a SelectionSet, parent: Option<&'a Composite>) {
        for selection in &set.items {
            if self.faults.full() {
                return;
            }
            match &selection.node {
                Selection::Field(field) => self.field(field, parent),
                Selection::InlineFragment(fragment) => {
                    self.directives(&fragment.node.directives, DirectiveLocation::InlineFragment);
                    let on = match &fragment.node.type_condition {
                        Some(condition) => {
                            let on = self.condition(&condition.node.on);
                            self.possible(parent, on, fragment.pos);
                            on
                        }
                        None => parent,
                    };
                    self.selection_set(&fragment.node.selection_set.node, on);
                }
                Selection::FragmentSpread(spread) => {
                    self.directives(&spread.node.directives, DirectiveLocation::FragmentSpread);
                    let name = spread.node.fragment_name.node.as_str();
                    self.scope.spreads.insert(name);
                    let on = self.fragments.get(name).map(|fragment| &fragment.node.type_condition.node.on.node);
                    let on = on.and_then(|on| self.catalog.composite(on));
                    self.possible(parent, on, spread.pos);
                }
            }
        }
    }

    /// Refuses fragments that can never apply.
    fn possible(&mut self, parent: Option<&Composite>, on: Option<&Composite>, pos: Pos) {
        if let (Some(parent), Some(on)) = (parent, on)
            && !parent.overlaps(on)
        {
            let message = format!("A fragment on {} never applies here: this is {}.", on.name, parent.name);
            self.faults.add("PossibleFragmentSpreads", message, pos);
        }
    }

    fn field(&mut self, field: &'a Positioned<Field>, parent: Option<&'a Composite>) {
        let name = field.node.name.node.as_str();
        self.directives(&field.node.directives, DirectiveLocation::Field);
        let set = &field.node.selection_set.node;
        let Some(parent) = parent else {
            // The type is unknown, which was said; variables are used all the same.
            field.node.arguments.iter().for_each(|(_, value)| self.variables(value));
            self.selection_set(set, None);
            return;
        };
        let known = self.catalog.field(parent, name);
        let owner = Owner::Field(&parent.name, name);
        self.arguments(owner, known.map(|known| &known.arguments), &field.node.arguments, field.pos);
        let Some(known) = known else {
            let near = self.near(name, |_| Box::new(parent.field_names()));
            let near = near.map(|near| format!(" Did you mean {}.{near}?", parent.name)).unwrap_or_default();
            let message = format!("There is no field {}.{}.{near}", parent.name, Short(name));
            self.faults.add("FieldsOnCorrectType", message, field.pos);
            self.selection_set(set, None);
            return;
        };
        let of = self.catalog.composite(&known.type_name);
        let pos = field.pos;
        match (of, set.items.is_empty()) {
            (None, false) => {
                let message = format!("{}.{name} is of type {}: that has no fields to select.", parent.name, known.ty);
                self.faults.add("ScalarLeafs", message, pos);
            }
            (Some(_), true) => {
                let message = format!(
                    "{}.{name} is of type {}: say which of its fields you want, `{name} {{ … }}`.",
                    parent.name, known.ty
                );
                self.faults.add("ScalarLeafs", message, pos);
            }
            _ => self.selection_set(set, of),
        }
    }

    fn directives(&mut self, directives: &'a [Positioned<Directive>], location: DirectiveLocation) {
        let mut seen = HashSet::new();
        for directive in directives {
            if self.faults.full() {
                return;
            }
            let name = directive.node.name.node.as_str();
            let known = self.catalog.directive(name);
            let arguments = known.map(|known| &known.arguments);
            self.arguments(Owner::Directive(name), arguments, &directive.node.arguments, directive.pos);
            let Some(known) = known else {
                let message = format!("There is no directive @{} here.", Short(name));
                self.faults.add("KnownDirectives", message, directive.pos);
                continue;
            };
            if !known.locations.contains(&location) {
                let message = format!("The directive @{name} cannot stand at {}.", place(location));
                self.faults.add("KnownDirectives", message, directive.pos);
            }
            if !seen.insert(name) {
                let message = format!("The directive @{name} stands here twice.");
                self.faults.add("UniqueDirectivesPerLocation", message, directive.pos);
            }
        }
    }

    /// The arguments of a field or a directive. `None`: it is unknown, which is said elsewhere.
    fn arguments(
        &mut self,
        owner: Owner<'a>,
        known: Option<&'a Inputs>,
        given: &'a [(Positioned<Name>, Positioned<Value>)],
        pos: Pos,
    ) {
        let mut seen = HashSet::new();
        for (name, value) in given {
            if self.faults.full() {
                return;
            }
            let at = owner.coordinate(&name.node);
            if !seen.insert(name.node.as_str()) {
                self.faults.add("UniqueArgumentNames", format!("The argument {at} is given twice."), name.pos);
            }
            match known.map(|known| (known, catalog::input(known, &name.node))) {
                Some((_, Some(declared))) => {
                    self.value(Expected::of(declared, at), name.node.as_str(), value, "ValuesOfCorrectType");
                }
                Some((known, None)) => {
                    let near = self.near(&name.node, |_| Box::new(known.iter().map(|(name, _)| name.as_str())));
                    let near =
                        near.map(|near| format!(" Did you mean {}?", owner.coordinate(near))).unwrap_or_default();
                    let message = match owner {
                        Owner::Field(parent, field) => {
                            format!("There is no argument {parent}.{field}({}:).{near}", Short(&name.node))
                        }
                        Owner::Directive(directive) => {
                            format!("There is no argument @{directive}({}:).{near}", Short(&name.node))
                        }
                    };
                    self.faults.add("KnownArgumentNames", message, name.pos);
                    self.variables(value);
                }
                None => self.variables(value),
            }
        }
        for (name, declared) in known.into_iter().flatten() {
            if declared.required() && !seen.contains(name.as_str()) {
                let message = format!("{} is required: a value of type {}.", owner.coordinate(name), declared.ty);
                self.faults.add("ProvidedRequiredArguments", message, pos);
            }
        }
    }

    /// Checks a literal, and notes its variables.
    fn value(&mut self, expected: Expected<'_>, argument: &str, value: &Positioned<Value>, rule: &'static str) {
        let mut constant = constant(&value.node);
        let mut check = Check { catalog: self.catalog, max_depth: usize::MAX, literal: true, usages: Vec::new() };
        if let Err(fault) = check.value(expected, &mut constant, &Path::argument(argument), 0) {
            self.faults.add_error(rule, fault.error(Code::InvalidArgument, Some(value.pos)));
            // The check ended at the fault.
            self.variables(value);
        }
        for usage in check.usages {
            self.scope.usages.entry(usage).or_insert(value.pos);
        }
    }

    /// Notes the variables of a value in no place of the schema.
    fn variables(&mut self, value: &Positioned<Value>) {
        let mut open = vec![&value.node];
        while let Some(inner) = open.pop() {
            match inner {
                Value::Variable(name) => {
                    let usage = Usage { variable: name.to_string(), place: None };
                    self.scope.usages.entry(usage).or_insert(value.pos);
                }
                Value::List(items) => open.extend(items),
                Value::Object(fields) => open.extend(fields.values()),
                _ => {}
            }
        }
    }
}

/// A literal as the check takes it: variables are their names.
fn constant(value: &Value) -> ConstValue {
    let name = |name: Name| Ok::<_, Infallible>(ConstValue::Binary(bytes::Bytes::copy_from_slice(name.as_bytes())));
    value.clone().into_const_with(name).unwrap_or_default()
}

fn place(location: DirectiveLocation) -> &'static str {
    match location {
        DirectiveLocation::Query => "a query",
        DirectiveLocation::Mutation => "a mutation",
        DirectiveLocation::Subscription => "a subscription",
        DirectiveLocation::Field => "a field",
        DirectiveLocation::FragmentDefinition => "the definition of a fragment",
        DirectiveLocation::FragmentSpread => "the spread of a fragment",
        DirectiveLocation::InlineFragment => "a fragment without a name",
        DirectiveLocation::VariableDefinition => "a variable",
        _ => "this place",
    }
}

/// The root of a subscription (section 5.2.4.1) is one field of the schema, whatever the variables are.
pub(super) fn subscription(
    operation: &Positioned<OperationDefinition>,
    document: &ExecutableDocument,
    faults: &mut Faults,
) {
    const RULE: &str = "SingleFieldSubscriptions";
    let mut open = vec![&operation.node.selection_set.node];
    let (mut seen, mut names) = (HashSet::new(), HashSet::new());
    while let Some(set) = open.pop() {
        for selection in &set.items {
            let conditional = selection.node.directives().iter();
            let mut conditional = conditional.filter(|d| matches!(d.node.name.node.as_str(), "skip" | "include"));
            if let Some(directive) = conditional.next() {
                let message =
                    "@skip and @include cannot stand at the root of a subscription: leave the field out instead.";
                faults.add(RULE, message.to_owned(), directive.pos);
            }
            match &selection.node {
                Selection::Field(field) if field.node.name.node.starts_with("__") => {
                    let message = format!("{} cannot be the root of a subscription.", field.node.name.node);
                    faults.add(RULE, message, field.pos);
                }
                Selection::Field(field) => {
                    names.insert(field.node.response_key().node.as_str());
                }
                Selection::InlineFragment(fragment) => open.push(&fragment.node.selection_set.node),
                Selection::FragmentSpread(spread) => {
                    let name = &spread.node.fragment_name.node;
                    if seen.insert(name)
                        && let Some(fragment) = document.fragments.get(name)
                    {
                        open.push(&fragment.node.selection_set.node);
                    }
                }
            }
        }
    }
    if names.len() > 1 {
        let message = "A subscription selects exactly one field; open one subscription per field.";
        faults.add(RULE, message.to_owned(), operation.node.selection_set.pos);
    }
}
