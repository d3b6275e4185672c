//! Which bus a command uses. Nothing here connects.

use crate::exit::Failure;
use broadcaster_protocol::endpoint::SOCKET_VARIABLE;
use clap::Args;
use std::path::PathBuf;
use system_broadcaster::Options;

#[derive(Debug, Clone, Args)]
pub(super) struct Bus {
    /// Use the bus at this socket instead of the user's own [env: BROADCASTER_SOCKET=]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Bus {
    /// The socket that `--socket` names, as an absolute path, since a started daemon has another working directory.
    pub(super) fn socket(&self) -> Result<Option<PathBuf>, Failure> {
        Ok(self.socket.as_ref().map(std::path::absolute).transpose()?)
    }

    /// Whether `--socket` was given.
    pub(super) fn is_given(&self) -> bool {
        self.socket.is_some()
    }

    /// Whether an argument or a variable names the bus, which then may not be the one of the service.
    pub(super) fn is_named(&self) -> bool {
        self.is_given() || std::env::var_os(SOCKET_VARIABLE).is_some_and(|value| !value.is_empty())
    }

    /// How to connect. A daemon that has to be started is this program.
    pub(super) fn options(&self) -> Result<Options, Failure> {
        let options = Options::new().program(std::env::current_exe()?);
        Ok(match self.socket()? {
            Some(socket) => options.socket(socket),
            None => options,
        })
    }
}
