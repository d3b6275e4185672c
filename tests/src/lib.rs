//! What the tests of system-broadcaster stand on: simulated worlds, and daemons of their own. Never the user's bus.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`world`] | the production broker and the production client cores over in-memory links, in virtual time |
//! | [`model`] | the dull model that knows what a listener must have heard |
//! | [`daemon`] | real daemons and clients as processes, each on a bus of its own |

pub mod daemon;
pub mod model;
pub mod world;
