//! The one table of the gateway's routes. The server, the OpenAPI description and `docs/gateway.md` are derived from it.

/// The path below which everything for people and dashboards is.
pub const BASE: &str = "/dashboard/kasm";

/// A route of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayRoute {
    /// The page for people.
    Page,
    /// The root, which leads to the page.
    Home,
    /// The list, once.
    Workspaces,
    /// The list and its changes.
    Changes,
    /// Opens a page.
    Launch,
    /// Starts or stops a workspace.
    Scale,
    /// Whether the gateway answers.
    Health,
    /// The metrics of the gateway.
    Metrics,
    /// The description of all routes.
    OpenApi,
}

/// The description of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayRouteInfo {
    /// The one method that it takes.
    pub method: &'static str,
    /// The path, with `{workspace}` for a name.
    pub path: &'static str,
    /// Whether a caller must be let in.
    pub protected: bool,
    /// One phrase, for the OpenAPI description.
    pub summary: &'static str,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed<'a> {
    /// To a route.
    To {
        /// Which one.
        route: GatewayRoute,
        /// The text in the place of `{workspace}`; any text, and empty if the path has no such place.
        workspace: &'a str,
    },
    /// The path exists, with this method.
    OtherMethod(&'static str),
    /// The path does not exist.
    Nowhere,
}

impl GatewayRoute {
    /// All routes, in the order of the description.
    pub const ALL: [GatewayRoute; 9] = [
        GatewayRoute::Page,
        GatewayRoute::Home,
        GatewayRoute::Workspaces,
        GatewayRoute::Changes,
        GatewayRoute::Launch,
        GatewayRoute::Scale,
        GatewayRoute::Health,
        GatewayRoute::Metrics,
        GatewayRoute::OpenApi,
    ];

    /// The description.
    pub fn info(self) -> GatewayRouteInfo {
        let (method, path, protected, summary) = match self {
            GatewayRoute::Page => ("GET", "/dashboard/kasm/", false, "The page with all workspaces"),
            GatewayRoute::Home => ("GET", "/", false, "Leads to the page"),
            GatewayRoute::Workspaces => ("GET", "/dashboard/kasm/workspaces", true, "All workspaces"),
            GatewayRoute::Changes => {
                ("GET", "/dashboard/kasm/events", true, "All workspaces and their changes, as server-sent events")
            }
            GatewayRoute::Launch => {
                ("POST", "/dashboard/kasm/launch-url/{workspace}", true, "Opens a page on the screen of a workspace")
            }
            GatewayRoute::Scale => {
                ("PUT", "/dashboard/kasm/scale/{workspace}", true, "Starts (1) or stops (0) a workspace")
            }
            GatewayRoute::Health => ("GET", "/healthz", false, "Whether the gateway answers"),
            GatewayRoute::Metrics => ("GET", "/metrics", false, "OpenMetrics"),
            GatewayRoute::OpenApi => ("GET", "/openapi.json", false, "This description"),
        };
        GatewayRouteInfo { method, path, protected, summary }
    }

    /// Finds the route of a request. `HEAD` is not served. A query, a fragment or another spelling of a path leads nowhere.
    pub fn find<'a>(method: &str, path: &'a str) -> Routed<'a> {
        let mut other = Routed::Nowhere;
        for route in GatewayRoute::ALL {
            let info = route.info();
            let Some(workspace) = matched(info.path, path) else { continue };
            if info.method == method {
                return Routed::To { route, workspace };
            }
            other = Routed::OtherMethod(info.method);
        }
        other
    }
}

/// The part of the path in the place of `{workspace}`, if the path fits.
fn matched<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    match pattern.strip_suffix("{workspace}") {
        None => (pattern == path).then_some(""),
        Some(before) => path.strip_prefix(before).filter(|rest| !rest.is_empty() && !rest.contains('/')),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(info: GatewayRouteInfo, workspace: &str) -> String {
        info.path.replace("{workspace}", workspace)
    }

    #[test]
    fn each_route_is_found_by_its_own_method_only() {
        for route in GatewayRoute::ALL {
            let info = route.info();
            let path = at(info, "a-1");
            let workspace = if info.path.contains('{') { "a-1" } else { "" };
            assert_eq!(GatewayRoute::find(info.method, &path), Routed::To { route, workspace });
            assert_eq!(GatewayRoute::find("DELETE", &path), Routed::OtherMethod(info.method));
            assert!(info.path.starts_with(BASE) || !info.protected);
        }
    }

    proptest! {
        #[test]
        fn only_the_table_leads_anywhere(path in "/?(dashboard/kasm/)?(launch-url|scale|workspaces|x)?/?[a-z%./?#]{0,8}") {
            if let Routed::To { route, workspace } = GatewayRoute::find("GET", &path) {
                prop_assert_eq!(at(route.info(), workspace), path.clone());
                prop_assert!(!workspace.contains('/'));
            }
        }
    }

    #[test]
    fn the_guide_names_every_route() {
        let guide = include_str!("../../../docs/gateway.md");
        for route in GatewayRoute::ALL {
            let info = route.info();
            let named = format!("`{} {}`", info.method, info.path);
            assert!(guide.contains(&named), "docs/gateway.md lacks {named}");
        }
    }
}
