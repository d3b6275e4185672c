//! The one error type of the bench: a sentence. It never carries structure, because nobody here branches on a failure.

use std::error::Error;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// An error that is only its sentence.
pub(crate) fn fail<T>(sentence: impl Into<String>) -> Outcome<T> {
    Err(sentence.into().into())
}
