use super::plan::routes;
use super::*;

const CHAIN: &str = "
nodes:
  - { name: client }
  - { name: edge, kind: router }
  - { name: core, kind: router, addresses: [10.255.0.1/32] }
  - { name: server, sysctls: { net.ipv4.tcp_sack: 0 } }
links:
  - { a: { node: client }, b: { node: edge } }
  - a: { node: edge }
    b: { node: core }
    kind: emulated
    both: { delay_ms: 10 }
    forward: { loss: 0.01 }
    schedule: [{ at_ms: 1000, set: { loss: 0 } }]
  - { a: { node: core }, b: { node: server }, mtu_bytes: 1400 }
";

fn chain() -> Topology {
    Topology::from_yaml_str(CHAIN).unwrap()
}

fn via(topology: &Topology, node: &str, to: &str) -> Option<String> {
    let to: IpNet = to.parse().unwrap();
    let node = topology.node_index(node).unwrap();
    let found = routes(topology, node)
        .into_iter()
        .find(|route| route.to == to)?;
    Some(
        found
            .via
            .map_or("blackhole".to_owned(), |via| via.to_string()),
    )
}

#[test]
fn names_and_addresses_are_given_where_they_are_not() {
    let topology = chain();
    let link = &topology.links[1];
    assert_eq!(link.name, "edge-core");
    assert_eq!(link.a.interface, "to-core");
    assert_eq!(link.a.addresses[0].to_string(), "10.77.2.1/24");
    assert_eq!(link.b.addresses[1].to_string(), "fd77:2::2/64");
    assert_eq!((link.forward.delay_ms, link.forward.loss), (10.0, 0.01));
    assert_eq!((link.reverse.delay_ms, link.reverse.loss), (10.0, 0.0));
    assert_eq!(topology.links[2].b.mtu_bytes, 1_400);
    assert_eq!(topology.nodes[3].sysctls["net.ipv4.tcp_sack"], "0");
    assert_eq!(topology.nodes[0].congestion_control, "cubic");
}

#[test]
fn routes_follow_the_chain_in_both_families() {
    let topology = chain();
    assert_eq!(
        via(&topology, "client", "10.77.3.0/24").as_deref(),
        Some("10.77.1.2")
    );
    assert_eq!(
        via(&topology, "client", "0.0.0.0/0").as_deref(),
        Some("10.77.1.2")
    );
    assert_eq!(
        via(&topology, "client", "::/0").as_deref(),
        Some("fd77:1::2")
    );
    assert_eq!(
        via(&topology, "client", "10.255.0.1/32").as_deref(),
        Some("10.77.1.2")
    );
    assert_eq!(
        via(&topology, "edge", "10.77.3.0/24").as_deref(),
        Some("10.77.2.2")
    );
    assert_eq!(
        via(&topology, "edge", "fd77:3::/64").as_deref(),
        Some("fd77:2::2")
    );
    assert_eq!(via(&topology, "edge", "0.0.0.0/0"), None);
    assert_eq!(via(&topology, "edge", "10.77.2.0/24"), None);
}

#[test]
fn the_cheaper_path_wins_and_hosts_are_never_on_the_way() {
    let text = "
nodes:
  - { name: a, kind: router }
  - { name: b, kind: router }
  - { name: c, kind: router }
  - { name: shortcut }
  - { name: end, addresses: [10.200.0.1/32] }
links:
  - { a: { node: a }, b: { node: shortcut } }
  - { a: { node: shortcut }, b: { node: end } }
  - { a: { node: a }, b: { node: b }, cost: 5 }
  - { a: { node: b }, b: { node: end } }
  - { a: { node: a }, b: { node: c } }
  - { a: { node: c }, b: { node: end }, cost: 2 }
";
    let topology = Topology::from_yaml_str(text).unwrap();
    assert_eq!(
        via(&topology, "a", "10.200.0.1/32").as_deref(),
        Some("10.77.5.2")
    );
}

#[test]
fn explicit_routes_replace_computed_ones() {
    let text = CHAIN.replace(
        "- { name: edge, kind: router }",
        "- { name: edge, kind: router, routes: [{ to: 10.77.3.0/24, blackhole: true }] }",
    );
    let topology = Topology::from_yaml_str(&text).unwrap();
    assert_eq!(
        via(&topology, "edge", "10.77.3.0/24").as_deref(),
        Some("blackhole")
    );
    assert_eq!(
        via(&topology, "edge", "fd77:3::/64").as_deref(),
        Some("fd77:2::2")
    );
}

/// A mistake, the line it is on, and a part of the message.
const MISTAKES: &[(&str, &str, u64, &str)] = &[
    ("kind: router }", "kind: ruoter }", 4, "ruoter"),
    (
        "forward: { loss: 0.01 }",
        "forward: { los: 0.01 }",
        13,
        "los",
    ),
    (
        "forward: { loss: 0.01 }",
        "forward: { loss: 1.01 }",
        9,
        "probability",
    ),
    ("b: { node: core }", "b: { node: cor }", 10, "no node `cor`"),
    ("name: server", "name: client", 6, "twice"),
    ("name: server", "name: Server", 6, "a-z"),
    ("mtu_bytes: 1400", "mtu_bytes: 40", 15, "mtu_bytes"),
    ("kind: emulated", "kind: veth", 9, "emulated"),
    ("net.ipv4.tcp_sack", "kernel.panic", 6, "kernel.panic"),
    ("at_ms: 1000", "at_ms: -5", 9, "at_ms"),
    (
        "{ node: client }, b",
        "{ node: client, addresses: [10.9.0.1/24] }, b",
        8,
        "no prefix",
    ),
    ("10.255.0.1/32", "10.77.1.1/32", 8, "twice"),
    ("nodes:", "nodes: [", 3, ""),
    ("10.255.0.1/32", "10.255.0.1.9/32", 5, ""),
];

#[test]
fn mistakes_are_found_on_their_line() {
    for (right, wrong, line, part) in MISTAKES {
        let text = CHAIN.replacen(right, wrong, 1);
        assert_ne!(text, CHAIN, "{right}");
        let error = Topology::from_yaml_str(&text).unwrap_err();
        assert!(error.message.contains(part), "{wrong}: {error}");
        assert_eq!(error.line, *line, "{wrong}: {error}");
    }
}

#[test]
fn the_same_prefix_on_two_links_is_refused() {
    let text = "
nodes: [{ name: a }, { name: b }, { name: c }]
links:
  - a: { node: a, addresses: [10.1.0.1/16] }
    b: { node: b, addresses: [10.1.0.2/16] }
  - a: { node: b, addresses: [10.1.5.1/24] }
    b: { node: c, addresses: [10.1.5.2/24] }
";
    let error = Topology::from_yaml_str(text).unwrap_err();
    assert!(
        error.to_string().contains("overlaps 10.1.0.0/16"),
        "{error}"
    );
    assert_eq!(error.line, 6);
}
