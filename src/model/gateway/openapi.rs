//! The OpenAPI description of the gateway, made from the table of routes, so that it cannot leave one out.

use serde_json::{Map, Value, json};

use super::route::{GatewayRoute, GatewayRouteInfo};

/// The description, as `GET /openapi.json` answers it (OpenAPI 3.1).
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in GatewayRoute::ALL {
        let GatewayRouteInfo { method, path, protected, summary } = route.info();
        let mut operation = json!({ "summary": summary, "operationId": id(route), "responses": responses(route) });
        if protected {
            operation["security"] = json!([{ "bearer": [] }]);
            for (status, text) in [
                ("401", "No token, or one that is not accepted"),
                ("403", "The request comes from another site's page"),
                ("429", "Too many requests; `Retry-After` says when to try again"),
            ] {
                operation["responses"][status] = failure(text);
            }
        }
        if path.contains("{workspace}") {
            let schema = json!({ "type": "string", "pattern": "^[A-Za-z0-9-]{1,63}$" });
            operation["parameters"] =
                json!([{ "name": "workspace", "in": "path", "required": true, "schema": schema }]);
        }
        if let Some(body) = body(route) {
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": body } } });
        }
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[method.to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "kasm-void gateway", "version": env!("CARGO_PKG_VERSION"), "license": { "name": "MIT", "identifier": "MIT" } },
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
    })
}

fn id(route: GatewayRoute) -> &'static str {
    match route {
        GatewayRoute::Page => "page",
        GatewayRoute::Home => "home",
        GatewayRoute::Workspaces => "workspaces",
        GatewayRoute::Changes => "events",
        GatewayRoute::Launch => "launchUrl",
        GatewayRoute::Scale => "scale",
        GatewayRoute::Health => "healthz",
        GatewayRoute::Metrics => "metrics",
        GatewayRoute::OpenApi => "openapi",
    }
}

fn body(route: GatewayRoute) -> Option<Value> {
    match route {
        GatewayRoute::Launch => Some(json!({
            "type": "object", "required": ["url"],
            "properties": { "url": { "type": "string", "maxLength": 2048 } },
        })),
        GatewayRoute::Scale => Some(json!({
            "type": "object", "required": ["replicas"],
            "properties": { "replicas": { "type": "integer", "enum": [0, 1] } },
        })),
        GatewayRoute::Page
        | GatewayRoute::Home
        | GatewayRoute::Workspaces
        | GatewayRoute::Changes
        | GatewayRoute::Health
        | GatewayRoute::Metrics
        | GatewayRoute::OpenApi => None,
    }
}

fn responses(route: GatewayRoute) -> Value {
    match route {
        GatewayRoute::Page => json!({ "200": answer("The page", "text/html", json!({ "type": "string" })) }),
        GatewayRoute::Home => json!({ "307": { "description": "To the page" } }),
        GatewayRoute::Workspaces => json!({ "200": answer("The list", "application/json", reference("Workspaces")) }),
        GatewayRoute::Changes => {
            json!({ "200": answer("A stream of `workspaces` events, each with a `Changes` object", "text/event-stream", reference("Changes")) })
        }
        GatewayRoute::Launch => json!({
            "200": answer("The launcher has opened the page", "application/json", reference("Opened")),
            "400": failure("A bad name, a bad body, or a URL that the policy refuses: here, or at the launcher"),
            "404": failure("There is no such workspace"),
            "413": failure("The body is longer than 4096 bytes"),
            "502": failure("`nav shim STATUS: BODY`: any other answer of the launcher, or none within 10 s"),
        }),
        GatewayRoute::Scale => json!({
            "200": answer("The Deployment has this size now", "application/json", reference("Scaled")),
            "400": failure("A bad name or a bad body"),
            "404": failure("There is no such workspace"),
            "409": failure("The workspace has no Deployment that could be scaled"),
            "502": failure("The cluster does not answer, or refuses"),
        }),
        GatewayRoute::Health => {
            json!({ "200": answer("It answers", "application/json", json!({ "type": "object", "properties": { "ok": { "const": true } } })) })
        }
        GatewayRoute::Metrics => {
            json!({ "200": answer("The metrics", "application/openmetrics-text", json!({ "type": "string" })) })
        }
        GatewayRoute::OpenApi => {
            json!({ "200": answer("This description", "application/json", json!({ "type": "object" })) })
        }
    }
}

fn answer(description: &str, kind: &str, schema: Value) -> Value {
    json!({ "description": description, "content": { kind: { "schema": schema } } })
}

fn failure(description: &str) -> Value {
    answer(description, "application/json", reference("Failure"))
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn schemas() -> Value {
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let list = |name: &str| json!({ "type": "array", "items": reference(name) });
    json!({
        "Workspaces": {
            "type": "object", "required": ["cluster", "workspaces"],
            "properties": { "cluster": reference("Cluster"), "workspaces": list("Workspace") },
        },
        "Changes": {
            "type": "object", "required": ["reset", "more", "cluster", "changed", "removed"],
            "properties": {
                "reset": { "type": "boolean", "description": "Forget every workspace first" },
                "more": { "type": "boolean", "description": "The list is not complete yet" },
                "cluster": reference("Cluster"), "changed": list("Workspace"), "removed": texts,
            },
        },
        "Cluster": {
            "type": ["object", "null"], "required": ["state"],
            "description": "`null` without Kubernetes",
            "properties": {
                "state": { "enum": ["connecting", "live", "away"] },
                "since_ms": { "type": "integer" }, "reason": { "type": "string" },
            },
        },
        "Workspace": {
            "type": "object", "required": ["name", "status", "reason", "reachable", "scalable", "apps"],
            "properties": {
                "name": { "type": "string" },
                "status": { "enum": ["stopped", "stopping", "starting", "ready", "failed", "unreachable", "unknown"] },
                "reason": { "type": "string" },
                "reachable": { "type": ["boolean", "null"] },
                "scalable": { "type": "boolean" },
                "apps": { "type": ["array", "null"], "items": reference("App") },
            },
        },
        "App": {
            "type": "object", "required": ["name", "state", "restarts", "failures"],
            "properties": {
                "name": { "type": "string" },
                "state": { "enum": ["Stopped", "Starting", "Running", "Crashed", "Backoff", "Stopping", "GaveUp"] },
                "restarts": { "type": "integer" }, "failures": { "type": "integer" },
            },
        },
        "Opened": {
            "type": "object", "required": ["success", "workspace", "upstream"],
            "properties": { "success": { "const": true }, "workspace": { "type": "string" }, "upstream": {} },
        },
        "Scaled": {
            "type": "object", "required": ["success", "workspace", "replicas"],
            "properties": {
                "success": { "const": true }, "workspace": { "type": "string" }, "replicas": { "type": "integer" },
            },
        },
        "Failure": {
            "type": "object", "required": ["error"],
            "properties": { "error": { "type": "string" }, "reason": { "type": "string" }, "code": { "type": "string" } },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::gateway::list::{Cursor, WorkspaceList};
    use crate::model::gateway::settings;

    #[test]
    fn it_describes_exactly_the_routes() {
        let document = document();
        let described: Vec<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone()))
            })
            .collect();
        let routes = GatewayRoute::ALL.map(|route| (route.info().method.to_owned(), route.info().path.to_owned()));
        assert_eq!(described, routes);
        for route in GatewayRoute::ALL {
            let operation = &document["paths"][route.info().path][route.info().method.to_lowercase()];
            assert_eq!(operation["security"].is_array(), route.info().protected, "{route:?}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = document();
        let mut used: Vec<String> = document
            .to_string()
            .split("#/components/schemas/")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().to_owned())
            .collect();
        used.sort_unstable();
        used.dedup();
        let mut there: Vec<String> = document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
        there.sort_unstable();
        assert_eq!(used, there);
    }

    #[test]
    fn a_workspace_has_the_fields_that_are_described() {
        let text = r#"Gateway(tokens: "/t", workspaces: { "a": Workspace(launcher: "a:1", token: "/t") })"#;
        let list = WorkspaceList::new(settings::read("g", text).unwrap().workspaces, None);
        let (_, whole) = list.document(&Cursor::Start).unwrap();
        let shown: BTreeMap<String, Value> = serde_json::from_str::<Value>(&whole).unwrap()["workspaces"][0]
            .as_object()
            .unwrap()
            .clone()
            .into_iter()
            .collect();
        let described = document()["components"]["schemas"]["Workspace"]["properties"].as_object().unwrap().clone();
        let described: BTreeMap<String, Value> = described.into_iter().collect();
        assert_eq!(shown.keys().collect::<Vec<_>>(), described.keys().collect::<Vec<_>>());
    }
}
