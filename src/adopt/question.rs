//! What a first plan cannot know, in a form that a terminal can ask and a file can show.

use std::collections::BTreeMap;

/// A question of the plan.
#[derive(Clone, Debug)]
pub struct Question {
    /// Its name among the [`Answers`].
    pub id: String,
    /// With its evidence, in the words of the plan's comment.
    pub text: String,
    /// How it can be answered.
    pub ask: Ask,
}

/// How a question can be answered.
#[derive(Clone, Debug)]
pub enum Ask {
    /// By changing the plan, or the database.
    Note,
    /// By one of these; the first is what the plan says otherwise.
    One(Vec<Choice>),
    /// By any of these; none is what the plan says otherwise.
    Some(Vec<Choice>),
    /// By one of the choices for each of these, whose first choice is given.
    Each(Vec<(Choice, usize)>, Vec<Choice>),
}

/// A possible answer: the value, and what people read.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Among the [`Answers`].
    pub value: String,
    /// For people.
    pub label: String,
}

impl Choice {
    /// A choice whose value is not what people read.
    #[must_use]
    pub fn new(value: &str, label: &str) -> Self {
        Self { value: value.to_owned(), label: label.to_owned() }
    }

    /// A choice that is read as it is.
    #[must_use]
    pub fn plain(value: &str) -> Self {
        Self::new(value, value)
    }
}

/// The answers by the questions' names. Of [`Ask::Each`] in its order.
pub type Answers = BTreeMap<String, Vec<String>>;
