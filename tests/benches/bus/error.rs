//! The one error type of the bench: a sentence. It has no structure, because no caller branches on a failure.

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Fails with `sentence`.
pub(crate) fn fail<T>(sentence: impl Into<String>) -> Result<T> {
    Err(sentence.into().into())
}
