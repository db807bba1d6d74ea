use super::*;
use crate::random::Random;

/// What Linux 6.18 told of a connection from 10.0.0.2:50000 to 10.9.0.1:80, sent on as
/// 10.1.0.1:1025 to 10.2.0.2:8080. Status, timeout, mark, state and the like follow the tuples.
const V4: &str = "02000000\
    34000180\
        1400018008000100\
            0a000002080002000a090001\
        1c000280050001000600000006000200c35000000600030000500000\
    34000280\
        1400018008000100\
            0a020002080002000a010001\
        1c0002800500010006000000060002001f9000000600030004010000\
    08000300000001be080008000000000008000c00f5c5272608000b0000000002080007000006978030000480\
    2c0001800500010003000000050002000a000000050003000a0000000600040023000000\
    0600050023000000";

/// The same of a connection from [fd00::2]:50001 to [fd00:9::1]:80, sent on to [fd00::2]:8080.
const V6: &str = "0a000000\
    4c000180\
        2c00018014000300fd000000000000000000000000000002\
            14000400fd000009000000000000000000000001\
        1c000280050001000600000006000200c35100000600030000500000\
    4c000280\
        2c00018014000300fd000000000000000000000000000002\
            14000400fd000000000000000000000000000002\
        1c0002800500010006000000060002001f90000006000300c3510000\
    08000300000001ae";

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.as_bytes().as_chunks::<2>().0;
    let byte = |two: &[u8; 2]| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap();
    digits.iter().map(byte).collect()
}

fn end(address: &str, port: u16) -> Endpoint {
    let address = address.parse().unwrap();
    Endpoint { address, port }
}

fn ends(client: Endpoint, server: Endpoint) -> Sides<Endpoint> {
    Sides { client, server }
}

fn told() -> [(&'static str, Translation); 2] {
    let v4 = Translation {
        protocol: 6,
        inside: ends(end("10.0.0.2", 50_000), end("10.9.0.1", 80)),
        outside: ends(end("10.1.0.1", 1_025), end("10.2.0.2", 8_080)),
    };
    let v6 = Translation {
        protocol: 6,
        inside: ends(end("fd00::2", 50_001), end("fd00:9::1", 80)),
        outside: ends(end("fd00::2", 50_001), end("fd00::2", 8_080)),
    };
    [(V4, v4), (V6, v6)]
}

#[test]
fn a_connection_is_what_the_kernel_told() {
    for (message, wanted) in told() {
        assert_eq!(connection(&bytes(message)), Some(wanted));
    }
}

/// The question is an answer's first attribute, which is the original tuple.
#[test]
fn a_question_is_the_tuple_as_the_kernel_writes_it() {
    for (message, wanted) in told() {
        let asked = question(&Tuple {
            protocol: 6,
            source: wanted.inside.client,
            destination: wanted.inside.server,
        });
        let asked = asked.unwrap();
        assert_eq!(asked, bytes(message)[..asked.len()]);
    }
    let mixed = Tuple {
        protocol: 6,
        source: end("10.0.0.2", 1),
        destination: end("fd00::2", 2),
    };
    assert_eq!(question(&mixed), None);
}

#[test]
fn a_message_cut_anywhere_tells_nothing_or_all() {
    for (message, wanted) in told() {
        let message = bytes(message);
        let tuples = HEADER_SIZE + 2 * usize::from(message[4]);
        for length in 0..=message.len() {
            let found = connection(&message[..length]);
            assert_eq!(found, (length >= tuples).then_some(wanted), "{length}");
        }
    }
}

/// The values of a connection as they stand in a message.
fn values(told: &Translation) -> Vec<Vec<u8>> {
    let both = [told.inside, told.outside];
    let ends = both.iter().flat_map(|it| [it.client, it.server]);
    let of_end = |it: Endpoint| {
        let address = match it.address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        [address, it.port.to_be_bytes().to_vec()]
    };
    ends.flat_map(of_end).chain([vec![told.protocol]]).collect()
}

fn holds(message: &[u8], value: &[u8]) -> bool {
    message.windows(value.len()).any(|it| it == value)
}

/// Each value is read from its own place, whatever stands there.
#[test]
fn any_values_are_read_from_where_they_stand() {
    /// In the tuples of the IPv4 message.
    const TUPLES: [usize; 2] = [4, 56];
    const SOURCE: usize = 12;
    const DESTINATION: usize = 20;
    const PROTOCOL: usize = 32;
    const PORTS: [usize; 2] = [40, 48];
    let mut random = Random(2);
    for _ in 0..10_000 {
        let mut message = bytes(V4);
        let number = random.below(256) as u8;
        let [inside, outside] = TUPLES.map(|tuple| {
            let mut write = |at: usize, value: &[u8]| {
                message[tuple + at..tuple + at + value.len()].copy_from_slice(value);
            };
            let mut end = |address_at: usize, port_at: usize| {
                let octets: [u8; 4] = std::array::from_fn(|_| random.below(256) as u8);
                let port = random.below(65_536) as u16;
                write(address_at, &octets);
                write(port_at, &port.to_be_bytes());
                let address = octets.into();
                Endpoint { address, port }
            };
            let both = [end(SOURCE, PORTS[0]), end(DESTINATION, PORTS[1])];
            write(PROTOCOL, &[number]);
            both
        });
        let wanted = Translation {
            protocol: number,
            inside: ends(inside[0], inside[1]),
            outside: ends(outside[1], outside[0]),
        };
        assert_eq!(connection(&message), Some(wanted));
    }
}

/// Any bytes end in a connection of values that they hold, or in none.
#[test]
fn mutated_messages_are_read_within_their_bytes() {
    let mut random = Random(1);
    let seeds = told().map(|(message, _)| bytes(message));
    let (mut found, mut none) = (0, 0);
    for _ in 0..200_000 {
        let mut message = seeds[random.below(2)].clone();
        for _ in 0..=random.below(6) {
            let at = random.below(message.len());
            match random.below(4) {
                0 => message[at] = random.below(256) as u8,
                1 => message[at] ^= 1 << random.below(8),
                2 => message.truncate(at.max(1)),
                _ => message.insert(at, random.below(256) as u8),
            }
        }
        match connection(&message) {
            Some(told) => {
                found += 1;
                assert!(
                    values(&told).iter().all(|it| holds(&message, it)),
                    "{told:?}"
                );
            }
            None => none += 1,
        }
    }
    println!("{found} connections, {none} messages without");
    assert!(found > 1_000 && none > 1_000);
}
