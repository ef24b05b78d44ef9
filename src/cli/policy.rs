//! The options and variables of the URL policy, shared by every verb that opens or checks URLs.

use clap::Args;

use crate::model::url::Policy;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "URL policy")]
pub struct PolicyOptions {
    /// Ports that may be opened [default: 80 443 8080 8443]
    #[arg(long, value_name = "PORTS", env = "URL_POLICY_PORTS", hide_env_values = true, value_parser = ports)]
    ports: Vec<Words>,
    /// Names to refuse, with all their subdomains, in addition to the built-in ones
    #[arg(long, value_name = "NAMES", env = "URL_POLICY_REFUSE", hide_env_values = true, value_parser = refuse)]
    refuse: Vec<Words>,
    /// Hosts to allow; all others are refused. `*.example.com` means the subdomains of example.com
    #[arg(long, value_name = "HOSTS", env = "URL_POLICY_ALLOW", hide_env_values = true, value_parser = allow)]
    allow: Vec<Words>,
    /// Name endings that count as public, in addition to the public suffix list
    #[arg(long, value_name = "NAMES", env = "URL_POLICY_PUBLIC", hide_env_values = true, value_parser = public)]
    public: Vec<Words>,
    /// Private hosts that may be opened on purpose, each with a port if wanted. Pages can then reach them too
    #[arg(long, value_name = "HOSTS", env = "URL_POLICY_PRIVATE", hide_env_values = true, value_parser = private)]
    private: Vec<Words>,
    /// Ports of this machine that are never opened: those of the workspace's own services. `ADDRESS:PORT` works too
    #[arg(long, value_name = "PORTS", env = "URL_POLICY_OWN_PORTS", hide_env_values = true, value_parser = own_ports)]
    own_ports: Vec<Words>,
}

impl PolicyOptions {
    pub fn policy(&self) -> Result<Policy, String> {
        let policy = Policy::new(&together(&self.ports), &together(&self.refuse), &together(&self.allow))?
            .with_public(&together(&self.public))?
            .with_private(&together(&self.private))?;
        let own: Vec<u16> = together(&self.own_ports).iter().map(|word| own_port(word)).collect::<Result<_, _>>()?;
        Ok(policy.with_own_ports(&own))
    }

    /// The private hosts that may be opened on purpose, as they were written.
    pub fn private_hosts(&self) -> Vec<String> {
        together(&self.private)
    }
}

/// The values of one option or variable, separated by spaces or commas.
#[derive(Debug, Clone)]
struct Words(Vec<String>);

fn together(all: &[Words]) -> Vec<String> {
    all.iter().flat_map(|Words(words)| words).cloned().collect()
}

fn split(text: &str) -> Vec<String> {
    text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty()).map(String::from).collect()
}

// Each option is checked while it is parsed, so that clap reports a bad value with the option's name.

fn ports(text: &str) -> Result<Words, String> {
    let words = split(text);
    Policy::new(&words, &[], &[]).map(|_| Words(words))
}

fn refuse(text: &str) -> Result<Words, String> {
    let words = split(text);
    Policy::new(&[], &words, &[]).map(|_| Words(words))
}

fn allow(text: &str) -> Result<Words, String> {
    let words = split(text);
    Policy::new(&[], &[], &words).map(|_| Words(words))
}

fn public(text: &str) -> Result<Words, String> {
    let words = split(text);
    Policy::default().with_public(&words).map(|_| Words(words))
}

fn private(text: &str) -> Result<Words, String> {
    let words = split(text);
    Policy::default().with_private(&words).map(|_| Words(words))
}

fn own_ports(text: &str) -> Result<Words, String> {
    let words = split(text);
    words.iter().try_for_each(|word| own_port(word).map(drop)).map(|()| Words(words))
}

/// Also of an address with a port, as services are configured.
fn own_port(word: &str) -> Result<u16, String> {
    let port = word.rsplit_once(':').map_or(word, |(_, port)| port);
    port.parse().map_err(|_| format!("`{word}` is not a port: use a number from 1 to 65535"))
}
