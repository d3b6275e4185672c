//! The statistics of the running daemon: how the command fetches and prints them.

pub(crate) mod fetch;
pub(crate) mod text;
