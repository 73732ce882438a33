//! The private listener: what operators, Prometheus and the deployment tool ask, and what nobody else may.
//!
//! `admin.socket`, else `admin.sock` in the data directory, always exists, with mode 0600: the file's permissions are the credentials. `admin.bind`
//! adds a loopback address with the reading half only; while another slot's process has it, it is waited for. The socket outlives every phase but the last, so that
//! `main status --watch` sees the drain.
//!
//! | | socket | loopback |
//! |---|---|---|
//! | `GET /metrics` | yes | yes |
//! | `GET /status` | yes | yes |
//! | `GET /plan` | yes | yes |
//! | `POST /shutdown` `{"reason": ".."}`; with `upgrade` websockets are closed with 1012 | yes | no |
//! | `POST /accept`: begins to accept, with `server.accept: on_command` | yes | no |
//! | `GET /self-test`: store, schema, venues, a request | yes | no |
//! | `POST /hand-over` `{"to": "<instance id>"}`, `POST /take-back`: see `docs/upgrade.md` | yes | no |
//! | `POST /notices` `{"severity": "major", "message": "..", "effective_at": <ms>}`: tells users | yes | no |
//! | `GET`, `POST /faults` (only with `venue.paper.allow_faults`) | yes | no |

mod api;
pub mod client;
pub mod metrics;
mod report;
mod socket;
mod upgrade;

pub use api::{AdminState, FaultControl, SetFaults, Surface, router, serve};
pub use report::{BlockerReport, EngineReport, PhaseReport, PhaseState, ReloadReport, StatusReport, UnresolvedOrder};
pub use socket::{AdminError, AdminSocket, Loopback, SOCKET_NAME, SocketFile};
pub use upgrade::{SelfTest, SelfTestCheck, UpgradeControl};
