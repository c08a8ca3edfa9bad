//! Which name and password go to which registry?
//!
//! A source is asked only for the registry that a server challenge came from. Each answer belongs to one endpoint
//! and is never offered to another.

use std::fmt;
use std::sync::Arc;

use super::Endpoint;
use crate::error::Result;
use crate::sys::secret::Secret;

/// What proves who we are. Does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    Password {
        user: String,
        password: Secret,
    },
    /// A refresh token (`identitytoken` in Docker's configuration).
    IdentityToken(Secret),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Login(REDACTED)")
    }
}

pub trait Credentials: Send + Sync {
    /// `None` if nothing is known for this registry without asking anybody.
    fn known(&self, endpoint: &Endpoint) -> Result<Option<Login>>;

    /// The same; what is not known is asked for, if there is somebody to ask.
    fn find(&self, endpoint: &Endpoint) -> Result<Option<Login>> {
        self.known(endpoint)
    }

    /// The registry refused what [`find`](Credentials::find) gave: do not offer it again.
    fn refused(&self, endpoint: &Endpoint);

    /// The way out for somebody whom this registry does not know.
    fn advice(&self, endpoint: &Endpoint) -> String;
}

/// Asks nobody: for those whom the user did not name.
pub struct Known(pub Arc<dyn Credentials>);

impl Credentials for Known {
    fn known(&self, endpoint: &Endpoint) -> Result<Option<Login>> {
        self.0.known(endpoint)
    }

    fn refused(&self, endpoint: &Endpoint) {
        self.0.refused(endpoint);
    }

    fn advice(&self, endpoint: &Endpoint) -> String {
        self.0.advice(endpoint)
    }
}
