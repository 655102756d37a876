"""The two public documents of a token issuer (OpenID Connect Discovery 1.0 section 3, RFC 7517).

Source: kubernetes ``pkg/serviceaccount/openidmetadata.go``.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from keys.jwk import VerificationKey

CONFIGURATION_PATH: Final = "/.well-known/openid-configuration"
JWKS_PATH: Final = "/openid/v1/jwks"
JWKS_CONTENT_TYPE: Final = "application/jwk-set+json"
MAX_AGE_SECONDS: Final = 3600


def openid_configuration(issuer: str, jwks_uri: str, keys: Iterable[VerificationKey]) -> bytes:
    """Render the discovery document; an empty ``jwks_uri`` means the issuer's own."""
    return msgspec.json.encode(
        {
            "issuer": issuer,
            "jwks_uri": jwks_uri or issuer.rstrip("/") + JWKS_PATH,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in keys}),
        }
    )
