"""Detection of RSA keys made by the library of CVE-2017-15361 (ROCA).

The primes of such keys have the form ``k * M + (65537 ** a mod M)`` with M the product of the
first n primes, so that the modulus is a power of 65537 modulo each of them. For keys of 1,984
to 3,936 bits n is 126, for longer ones more, and the test over 126 primes finds both; a sound
key passes for one with a probability below 2**-100. Source: Nemec, Sys, Svenda, Klinec and
Matyas, "The Return of Coppersmith's Attack", CCS 2017, section 3.
"""

from functools import lru_cache

_GENERATOR = 65537
_PRIME_COUNT = 126


def _first_primes(count: int) -> list[int]:
    primes: list[int] = []
    candidate = 2
    while len(primes) < count:
        if all(candidate % prime for prime in primes):
            primes.append(candidate)
        candidate += 1
    return primes


# Kept as they are met: a sound key fails for one of the first primes.
@lru_cache(maxsize=_PRIME_COUNT)
def _powers_of_generator(prime: int) -> frozenset[int]:
    powers = set()
    power = 1
    while power not in powers:
        powers.add(power)
        power = power * _GENERATOR % prime
    return frozenset(powers)


_PRIMES = tuple(_first_primes(_PRIME_COUNT))


def is_roca_modulus(modulus: int) -> bool:
    """Return whether an RSA modulus carries the fingerprint of CVE-2017-15361."""
    return all(modulus % prime in _powers_of_generator(prime) for prime in _PRIMES)
