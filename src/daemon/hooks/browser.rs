//! Asks a browser over its DevTools port to close, which it does as if a person had closed it, but
//! without "Leave site?". A signal cannot do that: at INT it waits behind that question, and at TERM it ends
//! without saving its cookies.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;

use super::HookRunner;
use crate::launcher::cdp::{Browser, Fault};

impl HookRunner {
    /// Returns when the browser has ended. Another program on the port is left alone.
    ///
    /// # Errors
    /// It does not answer, refuses, or is not this app.
    pub async fn close_browser(&self, port: u16) -> Result<(), String> {
        let words = |fault: Fault| format!("{fault} (port {port})");
        self.answered_by_us(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), true).await?;
        let mut browser = Browser::connect(port).await.map_err(words)?;
        match browser.call(None, "Browser.close", json!({})).await {
            // It may be gone before it has answered.
            Ok(_) | Err(Fault::Broken(_)) => {}
            Err(fault) => return Err(words(fault)),
        }
        while browser.next().await.is_ok() {}
        Ok(())
    }
}
