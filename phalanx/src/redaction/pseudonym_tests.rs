use super::*;
use crate::random::Random;

fn pseudonyms() -> Pseudonyms {
    Pseudonyms::new(&Key::from_bytes([7; KEY_BYTES]), false)
}

fn common<const LENGTH: usize>(one: [u8; LENGTH], other: [u8; LENGTH]) -> u32 {
    let mut bits = 0;
    for (one, other) in one.iter().zip(other) {
        let same = (one ^ other).leading_zeros();
        bits += same;
        if same < 8 {
            break;
        }
    }
    bits
}

fn v6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

/// Addresses that share prefixes of all lengths, of special kinds too.
fn addresses<const LENGTH: usize>(
    seeds: &[[u8; LENGTH]],
    random: &mut Random,
) -> Vec<[u8; LENGTH]> {
    let mut addresses = seeds.to_vec();
    for _ in 0..600 {
        let mut address = addresses[random.below(addresses.len())];
        let from = random.below(8 * LENGTH);
        for bit in from..8 * LENGTH {
            if bit == from || random.below(2) == 0 {
                address[bit / 8] ^= 0x80 >> (bit % 8);
            }
        }
        addresses.push(address);
    }
    addresses
}

#[test]
fn common_prefixes_stay_exactly_as_long() {
    let mut random = Random(3);
    let seeds_v4 = [
        [8, 8, 8, 8],
        [10, 1, 2, 3],
        [127, 0, 0, 1],
        [192, 168, 7, 7],
        [224, 0, 0, 9],
    ];
    let seeds_v6 = [
        "2001:db8::7",
        "fe80::1",
        "::1",
        "ff02::1:ff00:1",
        "ff15::9",
        "fd00::5",
    ]
    .map(v6);
    let mut pseudonyms = pseudonyms();
    let all_v4 = addresses(&seeds_v4, &mut random);
    let all_v6 = addresses(&seeds_v6, &mut random);
    for (index, one) in all_v4.iter().enumerate() {
        for other in &all_v4[..index] {
            let kept = common(pseudonyms.v4(*one), pseudonyms.v4(*other));
            assert_eq!(kept, common(*one, *other), "{one:?} {other:?}");
        }
    }
    for (index, one) in all_v6.iter().enumerate() {
        for other in &all_v6[..index] {
            let kept = common(pseudonyms.v6(*one), pseudonyms.v6(*other));
            assert_eq!(kept, common(*one, *other), "{one:x?} {other:x?}");
        }
    }
}

#[test]
fn each_kind_stays_what_it_is() {
    let mut pseudonyms = pseudonyms();
    let mut random = Random(5);
    for _ in 0..5_000 {
        let bits = random.next();
        let one = Ipv4Addr::from(bits as u32);
        let other = Ipv4Addr::from(pseudonyms.v4(one.octets()));
        let kinds = |it: Ipv4Addr| {
            [
                it.is_private(),
                it.is_loopback(),
                it.is_link_local(),
                it.is_multicast(),
                it.is_broadcast(),
                it.is_unspecified(),
                it.octets()[0] == 0,
                it.octets()[0] >= 240,
            ]
        };
        assert_eq!(kinds(one), kinds(other), "{one} {other}");
    }
    for text in ["::", "::1", "ff02::1", "ff02::fb", "ff05::2"] {
        assert_eq!(pseudonyms.v6(v6(text)), v6(text));
    }
    for (text, bytes) in [
        ("fe80::a:b:c:d", 8),
        ("ff02::1:ff0a:b0c", 13),
        ("ff18::a:b:c:d", 2),
    ] {
        let pseudonym = pseudonyms.v6(v6(text));
        assert_eq!(pseudonym[..bytes], v6(text)[..bytes], "{text}");
        assert_ne!(pseudonym, v6(text), "{text}");
    }
}

#[test]
fn a_key_decides_and_lasts() {
    let folder = std::env::temp_dir().join(format!("phalanx-key-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("key");
    let key = Key::draw().unwrap();
    key.write_new(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(key.write_new(&path).is_err(), "a key was written over");
    assert_eq!(Key::read(&path).unwrap(), key);
    let (mut one, mut other) = (Pseudonyms::new(&key, false), pseudonyms());
    let again = Pseudonyms::new(&Key::read(&path).unwrap(), false).v6(v6("2001:db8::1"));
    assert_eq!(one.v6(v6("2001:db8::1")), again);
    assert_ne!(other.v6(v6("2001:db8::1")), again);
    let mut mode = std::fs::metadata(&path).unwrap().permissions();
    mode.set_mode(0o640);
    std::fs::set_permissions(&path, mode.clone()).unwrap();
    assert!(matches!(Key::read(&path), Err(KeyError::Exposed(_))));
    std::fs::write(&path, "no key").unwrap();
    mode.set_mode(0o600);
    std::fs::set_permissions(&path, mode).unwrap();
    assert!(matches!(Key::read(&path), Err(KeyError::Form(_))));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn hardware_addresses_keep_their_kind_alone() {
    let mut pseudonyms = pseudonyms();
    for kept in [[0; 6], [0xff; 6], [1, 0x80, 0xc2, 0, 0, 0x0e]] {
        assert_eq!(pseudonyms.hardware(kept), kept);
    }
    let host = pseudonyms.hardware([0xac, 0xde, 0x48, 1, 2, 3]);
    assert_eq!(host[0] & 3, 2, "local, one host");
    assert_eq!(pseudonyms.hardware([0xac, 0xde, 0x48, 1, 2, 3]), host);
    let neighbour = pseudonyms.hardware([0xac, 0xde, 0x48, 1, 2, 4]);
    assert_ne!(neighbour[..3], host[..3], "the vendor shows");
    assert_eq!(
        pseudonyms.hardware([0x09, 0, 0x2b, 1, 2, 4])[0] & 3,
        3,
        "a group"
    );
    assert_eq!(
        pseudonyms.hardware([0x33, 0x33, 9, 9, 9, 9])[..2],
        [0x33, 0x33]
    );
}

#[test]
fn memory_is_bounded() {
    let mut pseudonyms = pseudonyms();
    let first = pseudonyms.v4([9, 9, 9, 9]);
    for number in 0..MEMORY_COUNT_MAX as u32 + 100 {
        remember(&mut pseudonyms.v4, number.to_be_bytes(), [0; 4]);
    }
    assert!(pseudonyms.v4.len() <= MEMORY_COUNT_MAX);
    assert_eq!(pseudonyms.v4([9, 9, 9, 9]), first);
}
