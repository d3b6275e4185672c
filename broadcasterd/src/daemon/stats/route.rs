//! The paths of the stats socket, for the service and for the command that reads them.

/// A page of the stats socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Statistics as OpenMetrics text, for monitoring systems.
    Metrics,
    /// Statistics as JSON, for programs.
    Json,
    /// A short text that shows that the daemon responds.
    Health,
}

impl Route {
    pub(crate) const ALL: [Self; 3] = [Self::Metrics, Self::Json, Self::Health];

    /// The path of a request.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/metrics",
            Self::Json => "/stats.json",
            Self::Health => "/healthz",
        }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Metrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Json => "application/json",
            Self::Health => "text/plain; charset=utf-8",
        }
    }
}
