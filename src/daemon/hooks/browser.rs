//! Asks a browser over its DevTools port to close. It closes as if a person had closed it, but without the "Leave
//! site?" dialog. A signal cannot do that: on INT the browser waits for that dialog, and on TERM it ends without saving
//! its cookies.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;

use super::HookRunner;
use crate::cdp::{Browser, Fault};

impl HookRunner {
    /// Returns when the browser has ended. If another program uses the port, it is left alone.
    ///
    /// # Errors
    /// The browser does not answer or refuses, or the process on the port is not this app's.
    pub async fn close_browser(&self, port: u16) -> Result<(), String> {
        let words = |fault: Fault| format!("{fault} (port {port})");
        self.answered_by_us(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), true).await?;
        let mut browser = Browser::connect(port).await.map_err(words)?;
        match browser.call(None, "Browser.close", json!({})).await {
            // The browser may end before it has answered.
            Ok(_) | Err(Fault::Broken(_)) => {}
            Err(fault) => return Err(words(fault)),
        }
        while browser.next().await.is_ok() {}
        Ok(())
    }
}
