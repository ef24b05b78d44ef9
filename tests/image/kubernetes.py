"""kubernetes.py BASE OVERLAY GATEWAY CILIUM: checks rendered sets of Kubernetes files for what no schema covers: the
cluster's names, rights, and the pods' outgoing traffic. BASE is the generic set, OVERLAY the one for the existing cluster,
GATEWAY the gateway's, CILIUM the gateway's for Cilium."""

import ipaddress
import pathlib
import re
import sys

import yaml

PRIVATE = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "127.0.0.1", "100.64.0.1", "0.0.0.0"]


class Rendered:
    """Objects by kind and name."""

    def __init__(self, file):
        self.file = file
        self.objects = [found for found in yaml.safe_load_all(pathlib.Path(file).read_text()) if found]

    def all(self, kind):
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind, name):
        found = [found for found in self.all(kind) if found["metadata"]["name"] == name]
        assert len(found) == 1, f"{self.file}: {len(found)} {kind}s are called {name}"
        return found[0]

    def pod(self):
        return self.one("Deployment", "kasm-vpn")["spec"]["template"]["spec"]


def named(items, name):
    found = [item for item in items if item["name"] == name]
    assert len(found) == 1, f"{len(found)} items are called {name}"
    return found[0]


def equal(found, wanted, what):
    assert found == wanted, f"{what} is {found!r}, and should be {wanted!r}"


def reaches(cidr, exceptions, address):
    address = ipaddress.ip_address(address)
    inside = lambda block: address in ipaddress.ip_network(block)
    return inside(cidr) and not any(inside(block) for block in exceptions)


def pod_is_sound(rendered):
    deployment, pod = rendered.one("Deployment", "kasm-vpn")["spec"], rendered.pod()
    assert "replicas" not in deployment, "`replicas` would undo scaling by hand"
    equal(deployment["strategy"], {"type": "Recreate"}, "the strategy")
    equal(pod["automountServiceAccountToken"], False, "the API token of all containers")
    equal([container["name"] for container in pod["initContainers"]], ["volume-owner", "rotate-vnc-password", "gluetun"], "the order")
    gluetun, workspace = named(pod["initContainers"], "gluetun"), named(pod["containers"], "workspace")
    equal(gluetun["restartPolicy"], "Always", "gluetun, a sidecar,")
    equal(gluetun["securityContext"]["capabilities"]["add"], ["NET_ADMIN", "MKNOD"], "what gluetun may do")
    for container in pod["initContainers"] + pod["containers"]:
        name, limits = container["name"], container["resources"]
        assert re.fullmatch(r"[\w./-]+:[\w.-]+(@sha256:[0-9a-f]{64})?", container["image"]), f"{name} has no version: {container['image']}"
        assert not container["image"].endswith(":latest"), name
        equal(container["securityContext"]["allowPrivilegeEscalation"], False, f"{name}: privilege escalation")
        equal(container["securityContext"]["capabilities"]["drop"], ["ALL"], f"{name}: dropped capabilities")
        for kind in ("requests", "limits"):
            equal(sorted(limits[kind]), ["cpu", "ephemeral-storage", "memory"], f"{name}: {kind}")
    for name, container in (("gluetun", gluetun), ("workspace", workspace)):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe in container, f"{name} has no {probe}"


def the_contract_is_kept(rendered):
    """Values that other parts of the cluster rely on."""
    pod = rendered.pod()
    gluetun, workspace = named(pod["initContainers"], "gluetun"), named(pod["containers"], "workspace")
    needs = lambda container: [container["resources"][kind][what] for kind in ("requests", "limits") for what in ("cpu", "memory")]
    equal(needs(workspace), ["2", "4Gi", "4", "8Gi"], "what the workspace needs")
    equal(needs(gluetun), ["100m", "128Mi", "500m", "384Mi"], "what gluetun needs")
    equal(pod["terminationGracePeriodSeconds"], 30, "the grace")
    equal(pod["securityContext"]["fsGroup"], 1000, "the volume's group")
    equal(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"}, "seccomp")
    equal([workspace["securityContext"][who] for who in ("runAsUser", "runAsGroup")], [1000, 1000], "the workspace's user")
    equal(named(gluetun["env"], "FIREWALL_OUTBOUND_SUBNETS")["value"], "10.0.0.0/8,172.16.0.0/12", "gluetun's way to clients")
    equal(gluetun["livenessProbe"]["httpGet"]["port"], 9999, "gluetun's health")
    equal(named(pod["volumes"], "dev-net-tun")["hostPath"]["path"], "/dev/net/tun", "the tunnel's device")
    [volume] = rendered.all("PersistentVolumeClaim")
    equal((volume["spec"]["accessModes"], volume["spec"]["resources"]["requests"]["storage"]), (["ReadWriteOnce"], "5Gi"), "the home's volume")


def every_wait_fits(rendered):
    """The drain must fit into the grace, and a slow start into the startup probe."""
    pod = rendered.pod()
    workspace = named(pod["containers"], "workspace")
    drain = workspace["lifecycle"]["preStop"]["exec"]["command"]
    equal(drain[:2], ["kasm-void", "drain"], "preStop")
    seconds = int(drain[drain.index("--timeout") + 1].removesuffix("s"))
    assert seconds + 10 <= pod["terminationGracePeriodSeconds"], "the drain and init's own grace are longer than the pod's"
    startup = workspace["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60, "a slow start is killed"
    liveness = workspace["livenessProbe"]
    equal(liveness["exec"]["command"], ["kasm-void", "health", "--live"], "liveness, which no app that is down may fail,")
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 30, "one slow answer costs the pod"


def ports_are_numbers(rendered):
    ports = rendered.one("Service", "kasm-vpn-service")["spec"]["ports"]
    equal([(port["port"], port["targetPort"]) for port in ports], [(6901, 6901), (9998, 9998), (9102, 9102)], "the Service")
    open_ports = {int(port) for port in named(named(rendered.pod()["initContainers"], "gluetun")["env"], "FIREWALL_INPUT_PORTS")["value"].split(",")}
    wanted = {port["containerPort"] for port in named(rendered.pod()["containers"], "workspace")["ports"]} | {9999}
    equal(open_ports, wanted, "gluetun's FIREWALL_INPUT_PORTS")


def secrets_and_rights(rendered, secret, account, rotator, volume, vpn):
    pod = rendered.pod()
    equal(pod["serviceAccountName"], account, "the ServiceAccount")
    rendered.one("ServiceAccount", account)
    role = rendered.one("Role", rotator)["rules"]
    equal(role, [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get", "patch", "update"]}], "the rotation")
    bindings = [binding for binding in rendered.all("RoleBinding") if binding["roleRef"]["name"] == rotator]
    equal([subject["name"] for binding in bindings for subject in binding["subjects"]], [account], "who may rotate")
    rotate = {entry["name"]: entry["value"] for entry in named(pod["initContainers"], "rotate-vnc-password")["env"]}
    equal((rotate["SECRET_NAME"], rotate["SECRET_KEY"]), (secret, "password"), "what is rotated")
    workspace = named(pod["containers"], "workspace")
    reference = named(workspace["env"], "VNC_PW")["valueFrom"]["secretKeyRef"]
    equal(reference, {"name": secret, "key": "password"}, "VNC_PW")
    token = named(pod["volumes"], "launcher-token")["secret"]
    equal((token["secretName"], token["items"]), (secret, [{"key": "password", "path": "token"}]), "the launcher's bearer")
    equal(named(pod["volumes"], "discord-profile")["persistentVolumeClaim"]["claimName"], volume, "the volume")
    rendered.one("PersistentVolumeClaim", volume)
    equal(named(workspace["volumeMounts"], "discord-profile")["mountPath"], "/home/kasm-user", "the home")
    equal(named(pod["initContainers"], "gluetun")["envFrom"][0]["secretRef"]["name"], vpn, "gluetun's settings")


def plain_policy_locks_down(policy):
    equal(sorted(policy["spec"]["policyTypes"]), ["Egress", "Ingress"], "the policy")
    for rule in policy["spec"]["egress"]:
        ports = {(port["protocol"], port["port"]) for port in rule["ports"]}
        for to in rule["to"]:
            block = to.get("ipBlock")
            if block is None:
                equal(ports, {("UDP", 53), ("TCP", 53)}, "what is open to pods")
                continue
            if ports == {("UDP", 51820)}:
                closed = PRIVATE
            else:
                equal(ports, {("TCP", 6443)}, "what else leaves the pod")
                closed = ["169.254.169.254"]
            for address in closed:
                assert not reaches(block["cidr"], block.get("except", []), address), f"{address} can be reached at {ports}"


def cilium_policy_locks_down(policy):
    for rule in policy["spec"]["egress"]:
        ports = {(port["protocol"], port["port"]) for to in rule["toPorts"] for port in to["ports"]}
        if "toCIDRSet" in rule:
            equal(ports, {("UDP", "51820")}, "what leaves to addresses")
            for block in rule["toCIDRSet"]:
                for address in PRIVATE:
                    assert not reaches(block["cidr"], block["except"], address), f"{address} can be reached"
        elif "toEntities" in rule:
            equal(rule["toEntities"], ["kube-apiserver"], "who of the cluster can be reached")
        else:
            equal(ports, {("UDP", "53"), ("TCP", "53")}, "what is open to pods")
    hosts = [rule for rule in policy["spec"]["ingress"] if "fromEntities" in rule]
    equal([rule["toPorts"][0]["ports"] for rule in hosts], [[{"port": "9999", "protocol": "TCP"}]], "what the node can reach")
    launcher = [rule for rule in policy["spec"]["ingress"] if rule["toPorts"][0]["ports"][0]["port"] == "9998"]
    equal(
        [source["matchLabels"] for rule in launcher for source in rule["fromEndpoints"]],
        [{"k8s:io.kubernetes.pod.namespace": "kbve"}],
        "who reaches the launcher",
    )


def gateway_finds(rendered, gateway, secret):
    """The gateway's files and the workspace's can be applied side by side, and fit."""
    label, deployment = "kasm-void.kbve.com/workspace", rendered.one("Deployment", "kasm-vpn")
    service = rendered.one("Service", "kasm-vpn-service")
    for found in (deployment, service):
        equal(found["metadata"]["labels"][label], "kasm-vpn", f"the workspace of the {found['kind']}")
    equal(deployment["metadata"]["annotations"]["kasm-void.kbve.com/token-secret"], f"{secret}/password", "the launcher's token")
    rules = gateway.one("Role", "kasm-gateway")["rules"]
    readable = [name for rule in rules if rule["resources"] == ["secrets"] for name in rule["resourceNames"]]
    assert secret in readable, f"the gateway may not read {secret}"
    names = [port["name"] for port in service["spec"]["ports"]]
    assert {"nav-shim", "metrics"} <= set(names), "the gateway shows apps only if the Service has their metrics"
    both = {(found["kind"], found["metadata"]["name"]) for found in rendered.objects} & {(found["kind"], found["metadata"]["name"]) for found in gateway.objects}
    assert not both, f"both sets have {both}"


def gateway_is_sound(gateway, base):
    """The gateway may do what it does and nothing else, and both halves of the network policies fit."""
    rules = gateway.one("Role", "kasm-gateway")["rules"]
    may = {(group, kind, verb, tuple(rule.get("resourceNames", []))) for rule in rules for group in rule["apiGroups"] for kind in rule["resources"] for verb in rule["verbs"]}
    wanted = {
        ("", "services", "list", ()), ("", "services", "watch", ()),
        ("apps", "deployments", "list", ()), ("apps", "deployments", "watch", ()),
        ("apps", "deployments/scale", "patch", ("kasm-vpn",)),
        ("", "secrets", "get", ("kasm-vnc", "kasm-vnc-pw")),
    }
    equal(may, wanted, "what the gateway may do")
    assert not gateway.all("ClusterRole") and not gateway.all("ClusterRoleBinding"), "rights of the whole cluster"
    pod = gateway.one("Deployment", "kasm-gateway")["spec"]["template"]["spec"]
    equal(pod["serviceAccountName"], "kasm-gateway", "the gateway's account")
    equal((pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]), (True, 1000), "the gateway's user")
    container = named(pod["containers"], "gateway")
    equal(container["securityContext"], {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}, "the gateway's container")
    tokens = named(pod["volumes"], "tokens")["secret"]
    equal(tokens["defaultMode"], 0o440, "who may read the tokens")
    policy = gateway.one("NetworkPolicy", "kasm-gateway")["spec"]
    equal(sorted(policy["policyTypes"]), ["Egress", "Ingress"], "the gateway's policy")
    workspace = base.pod()["containers"][0]
    ports = {port["containerPort"] for port in workspace["ports"]} - {6901}
    label = base.one("Deployment", "kasm-vpn")["spec"]["template"]["metadata"]["labels"]["app"]
    out = [rule for rule in policy["egress"] if rule["to"] == [{"podSelector": {"matchLabels": {"app": label}}}]]
    equal([{port["port"] for port in rule["ports"]} for rule in out], [ports], "the way to the workspaces")
    into = gateway.one("NetworkPolicy", "kasm-gateway-to-workspaces")["spec"]
    equal(into["podSelector"]["matchLabels"]["app"], label, "the workspaces' policy")
    equal([{port["port"] for port in rule["ports"]} for rule in into["ingress"]], [ports], "the way into the workspaces")
    for rule in policy["egress"]:
        for to in rule["to"]:
            block = to.get("ipBlock", {"cidr": "192.0.2.1/32"})
            assert not reaches(block["cidr"], block.get("except", []), "169.254.169.254"), "the metadata service can be reached"


def gateway_reaches_the_api_server_with_cilium(rendered):
    policy = rendered.one("CiliumNetworkPolicy", "kasm-gateway-to-api-server")["spec"]
    pod = rendered.one("Deployment", "kasm-gateway")["spec"]["template"]["metadata"]["labels"]
    assert policy["endpointSelector"]["matchLabels"].items() <= pod.items(), "the policy is for other pods"
    equal([rule["toEntities"] for rule in policy["egress"]], [["kube-apiserver"]], "what Cilium lets the gateway reach besides")


def main():
    base, overlay, gateway, cilium = (Rendered(file) for file in sys.argv[1:5])
    for rendered in (gateway, cilium):
        gateway_is_sound(rendered, base)
    gateway_reaches_the_api_server_with_cilium(cilium)
    gateway_finds(base, gateway, "kasm-vnc")
    gateway_finds(overlay, gateway, "kasm-vnc-pw")
    for rendered in (base, overlay):
        pod_is_sound(rendered)
        the_contract_is_kept(rendered)
        every_wait_fits(rendered)
        ports_are_numbers(rendered)
        equal(rendered.one("PodDisruptionBudget", "kasm-vpn")["spec"]["maxUnavailable"], 0, "the disruption budget")
    secrets_and_rights(base, "kasm-vnc", "kasm-vpn", "kasm-vnc-rotator", "kasm-vpn-home", "kasm-gluetun")
    secrets_and_rights(overlay, "kasm-vnc-pw", "kasm-init-sa", "kasm-vnc-pw-rotator", "kasm-discord-profile", "vpn-wireguard")
    plain_policy_locks_down(base.one("NetworkPolicy", "kasm-vpn"))
    equal(overlay.all("NetworkPolicy"), [], "a plain policy beside Cilium's")
    cilium_policy_locks_down(overlay.one("CiliumNetworkPolicy", "kasm-vpn-egress-lockdown"))
    reader = overlay.one("RoleBinding", "kbve-app-vnc-pw-reader")
    equal(reader["subjects"], [{"kind": "ServiceAccount", "name": "kbve-app", "namespace": "kbve"}], "the dashboard")
    equal(overlay.one("Role", "kasm-vnc-pw-reader")["rules"][0]["verbs"], ["get"], "what the dashboard may do")
    reload = overlay.one("Deployment", "kasm-vpn")["metadata"]["annotations"]["secret.reloader.stakater.com/reload"]
    equal(reload, "vpn-wireguard", "what restarts the pod")
    namespace = overlay.one("Namespace", "kasm")["metadata"]["labels"]
    equal(namespace["pod-security.kubernetes.io/enforce"], "privileged", "PodSecurity")
    for found in overlay.objects:
        assert found["kind"] == "Namespace" or found["metadata"].get("namespace") == "kasm", f"{found['kind']} without namespace"


main()
