//! `main venue`: the simulated exchange as a process of its own.

use std::fmt;
use std::net::SocketAddr;

use clap::Args;
use venue::binance::{Keys, Limits, Verifier};

use super::http::code_of;
use super::{ExitCode, Failure, Global};
use crate::boot::{self, VenueOptions};
use crate::store::Database;

/// Options of `main venue`. Symbols, fees, opening balances and prices come from the configuration (`venue`, `market`).
///
/// `--data-dir` is needed: it holds `venue.ledger`, `requests.jsonl` and the control socket `venue.sock`. It is not the
/// server's.
#[derive(Debug, Args)]
pub struct VenueArgs {
    /// Address and port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub bind: SocketAddr,
    /// An account and who may trade it; SECRET is an HMAC secret, or @FILE with an Ed25519 public key in PEM
    #[arg(long = "key", required = true, value_name = "ACCOUNT:APIKEY:SECRET", value_parser = KeyArg::parse)]
    pub keys: Vec<KeyArg>,
    /// Refuse every order without a committed row in this database of the server: an SQLite file, or a postgres URL
    #[arg(long, value_name = "DATABASE", value_parser = Database::parse)]
    pub witness: Option<Database>,
    /// Let faults be set through the control socket
    #[arg(long)]
    pub allow_faults: bool,
    /// Request weight per minute and address
    #[arg(long, value_name = "N", default_value_t = Limits::default().weight_per_minute)]
    pub weight_limit: u32,
    /// Orders per ten seconds and account that are not filled at once
    #[arg(long, value_name = "N", default_value_t = Limits::default().orders_per_10s)]
    pub order_limit: u32,
}

/// `--key`.
#[derive(Clone)]
pub struct KeyArg {
    /// The account's label.
    pub account: String,
    /// What requests name.
    pub api_key: String,
    /// What they are signed with, or `@` and a file.
    pub secret: String,
}

impl fmt::Debug for KeyArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyArg").field("account", &self.account).field("api_key", &self.api_key).finish_non_exhaustive()
    }
}

impl KeyArg {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        let (Some(account), Some(api_key), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("not ACCOUNT:APIKEY:SECRET".to_owned());
        };
        if account.is_empty() || secret.is_empty() || !api_key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err("the account and the secret are not empty, and the API key is of letters and digits".to_owned());
        }
        Ok(Self { account, api_key, secret })
    }

    fn verifier(&self) -> Result<Verifier, Failure> {
        let verifier = match self.secret.strip_prefix('@') {
            None => Verifier::hmac(&self.secret),
            Some(path) => {
                let pem = std::fs::read(path).map_err(|error| {
                    Failure::new(ExitCode::Usage, format!("the key of account {}: {path}: {error}", self.account))
                })?;
                Verifier::ed25519_pem(&pem)
            }
        };
        verifier.map_err(|error| Failure::new(ExitCode::Usage, format!("the key of account {}: {error}", self.account)))
    }
}

pub(super) fn run(global: &Global, args: &VenueArgs) -> Result<ExitCode, Failure> {
    if global.data_dir.is_none() {
        return Err(Failure::new(ExitCode::Usage, "`main venue` needs a data directory of its own")
            .help("name it with --data-dir; it must not be the server's"));
    }
    let mut keys = Keys::default();
    for key in &args.keys {
        if !keys.add(&key.account, &key.api_key, key.verifier()?) {
            return Err(Failure::new(ExitCode::Usage, format!("the API key {} is given twice", key.api_key)));
        }
    }
    let loaded = global.load(&[])?;
    let _metrics = global.telemetry(&loaded)?;
    let options = VenueOptions {
        bind: args.bind,
        keys,
        limits: Limits { weight_per_minute: args.weight_limit, orders_per_10s: args.order_limit, ..Limits::default() },
        witness: args.witness.clone(),
        allow_faults: args.allow_faults,
    };
    Ok(code_of(&boot::venue(loaded.config, options)?))
}
