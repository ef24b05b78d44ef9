//! The wire types of the gateway: how clients see a workspace. Everything that a page can show is here.

use serde::Serialize;

use crate::model::protocol::StateName;

/// One workspace, as in `GET …/workspaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkspaceView {
    /// The name, as in the routes.
    pub name: String,
    /// Its state.
    pub status: WorkspaceStatus,
    /// A sentence that explains the status; may be empty.
    pub reason: String,
    /// Whether the workspace answered the last time it was asked; `None` if it was not asked.
    pub reachable: Option<bool>,
    /// Whether it can be started and stopped here.
    pub scalable: bool,
    /// Its apps, ordered by name; `None` if it does not tell.
    pub apps: Option<Vec<AppView>>,
}

/// The status of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkspaceStatus {
    /// It is scaled to 0.
    Stopped,
    /// It is scaled to 0, and its pod has not ended yet.
    Stopping,
    /// It is scaled to 1, and its pod is not ready yet.
    Starting,
    /// Its pod is ready or, without a cluster, it answers.
    Ready,
    /// The cluster cannot start it.
    Failed,
    /// It should answer, and does not.
    Unreachable,
    /// Nothing is known yet.
    Unknown,
}

impl WorkspaceStatus {
    /// All statuses.
    pub const ALL: [WorkspaceStatus; 7] = [
        WorkspaceStatus::Stopped,
        WorkspaceStatus::Stopping,
        WorkspaceStatus::Starting,
        WorkspaceStatus::Ready,
        WorkspaceStatus::Failed,
        WorkspaceStatus::Unreachable,
        WorkspaceStatus::Unknown,
    ];

    /// The word that stands for it in JSON and metrics.
    pub fn word(self) -> &'static str {
        match self {
            WorkspaceStatus::Stopped => "stopped",
            WorkspaceStatus::Stopping => "stopping",
            WorkspaceStatus::Starting => "starting",
            WorkspaceStatus::Ready => "ready",
            WorkspaceStatus::Failed => "failed",
            WorkspaceStatus::Unreachable => "unreachable",
            WorkspaceStatus::Unknown => "unknown",
        }
    }

    /// Whether a workspace with this status can answer requests.
    pub fn may_answer(self) -> bool {
        match self {
            WorkspaceStatus::Stopped | WorkspaceStatus::Starting | WorkspaceStatus::Failed => false,
            WorkspaceStatus::Stopping
            | WorkspaceStatus::Ready
            | WorkspaceStatus::Unreachable
            | WorkspaceStatus::Unknown => true,
        }
    }
}

/// One app of a workspace, as in its metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppView {
    /// The app's name in the workspace.
    pub name: String,
    /// As in `kasm-void status`.
    pub state: StateName,
    /// Starts that followed an exit without a request.
    pub restarts: u64,
    /// Failed starts in a row; 5 or more are a crash loop.
    pub failures: u64,
}

/// How well the gateway knows the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ClusterHealth {
    /// The first lists have not arrived yet.
    Connecting,
    /// Every change of the cluster arrives.
    Live,
    /// The API server does not answer or refuses; what is shown is the last known state.
    Away {
        /// Milliseconds since 1970.
        since_ms: u64,
        /// Why, in words.
        reason: String,
    },
}
