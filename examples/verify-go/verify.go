// Command verify checks the signed context that Usher puts into every authenticated request. Standard library alone.
//
//	verify JWKS_PATH_OR_URL AUDIENCE [ISSUER]      EdDSA or ES256, with the published keys
//	verify --secret FILE AUDIENCE [ISSUER]         HS256, with the secret shared with Usher
//
// It reads the header's value from standard input and prints its claims. It exits with 1 and the reason when the value is
// not valid. To use it in a backend, copy the file and rename the package: Verifier, Verify, ReadJWKS and ReadSecret are
// the parts.
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Keys verifies signatures: a published key set (JWKS) or a shared secret (Secret).
type Keys interface {
	verify(header map[string]any, signed, signature []byte) error
}

// Verifier verifies headers with the published keys of Place, a file or a URL. It reads the keys at the first header,
// because Usher may start later, and again for an unknown key id, at most once a minute.
type Verifier struct {
	Place, Audience, Issuer string

	mutex  sync.Mutex
	keys   *JWKS
	readAt time.Time
}

// Verify returns the claims.
func (v *Verifier) Verify(headerValue string) (map[string]any, error) {
	keys, err := v.read(nil)
	if err != nil {
		return nil, err
	}
	claims, err := Verify(headerValue, *keys, v.Audience, v.Issuer, time.Now())
	if !errors.Is(err, errUnknownKey) {
		return claims, err
	}
	if keys, err = v.read(keys); err != nil {
		return nil, err
	}
	return Verify(headerValue, *keys, v.Audience, v.Issuer, time.Now())
}

// read returns the keys. It reads them if there are none, and again if they are still the old ones and a minute old.
func (v *Verifier) read(old *JWKS) (*JWKS, error) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if v.keys != nil && (v.keys != old || time.Since(v.readAt) < time.Minute) {
		return v.keys, nil
	}
	v.readAt = time.Now()
	set, err := ReadJWKS(v.Place)
	if err != nil {
		return nil, err
	}
	v.keys = &set
	return v.keys, nil
}

// JWKS is the published key set.
type JWKS struct {
	Keys []map[string]any `json:"keys"`
}

// Secret is the secret of HS256.
type Secret []byte

var (
	errNotCompact = errors.New("it is not a compact JWS")
	errUnknownKey = errors.New("no published key has the key id")
)

// Verify returns the claims. The audience is your upstream's name in Usher's config, the issuer its `[context] issuer`.
func Verify(headerValue string, keys Keys, audience, issuer string, now time.Time) (map[string]any, error) {
	if headerValue == "" {
		return nil, errors.New("there is no signed context")
	}
	if audience == "" || issuer == "" {
		return nil, errors.New("an audience and an issuer are needed")
	}
	parts := strings.Split(headerValue, ".")
	if len(parts) != 3 {
		return nil, errNotCompact
	}
	header, err := object(parts[0])
	if err != nil {
		return nil, err
	}
	claims, err := object(parts[1])
	if err != nil {
		return nil, err
	}
	signature, err := decode(parts[2])
	if err != nil {
		return nil, err
	}
	if _, found := header["crit"]; found {
		return nil, errors.New("the value has an unknown critical header")
	}
	if err := keys.verify(header, []byte(parts[0]+"."+parts[1]), signature); err != nil {
		return nil, err
	}
	if claims["iss"] != issuer {
		return nil, errors.New("another issuer made it")
	}
	if claims["aud"] != audience {
		return nil, errors.New("the audience is another one")
	}
	expires, ok := claims["exp"].(float64)
	if !ok || math.IsInf(expires, 0) || math.IsNaN(expires) {
		return nil, errors.New("it has no expiry")
	}
	if expires <= float64(now.UnixMilli())/1000 {
		return nil, errors.New("it has expired")
	}
	if subject, ok := claims["sub"].(string); !ok || subject == "" {
		return nil, errors.New("the value has no user")
	}
	return claims, nil
}

// The key's type decides the algorithm; what the header says must agree with it.
func (set JWKS) verify(header map[string]any, signed, signature []byte) error {
	algorithm, _ := header["alg"].(string)
	kid, _ := header["kid"].(string)
	if algorithm != "EdDSA" && algorithm != "ES256" {
		return errors.New("its algorithm is not one of EdDSA, ES256")
	}
	for _, key := range set.Keys {
		if kid == "" || key["kid"] != kid {
			continue
		}
		good := false
		switch {
		case algorithm == "EdDSA" && key["kty"] == "OKP" && key["crv"] == "Ed25519":
			public := member(key, "x", ed25519.PublicKeySize)
			good = public != nil && ed25519.Verify(public, signed, signature)
		case algorithm == "ES256" && key["kty"] == "EC" && key["crv"] == "P-256":
			good = p256IsGood(key, signed, signature)
		default:
			return errors.New("its algorithm is not that of its key")
		}
		if !good {
			return errors.New("the signature does not verify")
		}
		return nil
	}
	return errUnknownKey
}

func p256IsGood(key map[string]any, signed, signature []byte) bool {
	x, y := member(key, "x", 32), member(key, "y", 32)
	if x == nil || y == nil || len(signature) != 64 {
		return false
	}
	curve := elliptic.P256()
	public := ecdsa.PublicKey{Curve: curve, X: new(big.Int).SetBytes(x), Y: new(big.Int).SetBytes(y)}
	if !curve.IsOnCurve(public.X, public.Y) {
		return false
	}
	digest := sha256.Sum256(signed)
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	return ecdsa.Verify(&public, digest[:], r, s)
}

func (secret Secret) verify(header map[string]any, signed, signature []byte) error {
	if header["alg"] != "HS256" {
		return errors.New("its algorithm is not HS256")
	}
	if header["kid"] != "shared" {
		return errors.New("the key id is not that of the shared secret")
	}
	if len(secret) < 32 {
		return errors.New("a shared secret needs at least 32 bytes")
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(signed)
	if !hmac.Equal(mac.Sum(nil), signature) {
		return errors.New("the signature does not verify")
	}
	return nil
}

// decode reads base64url without padding. Go skips line ends and a signed value has one spelling.
func decode(part string) ([]byte, error) {
	decoded, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil || base64.RawURLEncoding.EncodeToString(decoded) != part {
		return nil, errNotCompact
	}
	return decoded, nil
}

// object keeps names as they are written: a struct would take "ALG" for "alg".
func object(part string) (map[string]any, error) {
	decoded, err := decode(part)
	if err != nil {
		return nil, err
	}
	var value map[string]any
	if json.Unmarshal(decoded, &value) != nil || value == nil {
		return nil, errNotCompact
	}
	return value, nil
}

func member(key map[string]any, name string, length int) []byte {
	text, _ := key[name].(string)
	decoded, err := decode(text)
	if err != nil || len(decoded) != length {
		return nil
	}
	return decoded
}

// ReadJWKS reads the key set from a file or a URL.
func ReadJWKS(place string) (JWKS, error) {
	var set JWKS
	text, err := read(place)
	if err != nil {
		return set, err
	}
	if err := json.Unmarshal(text, &set); err != nil || set.Keys == nil {
		return set, fmt.Errorf("%s is not a key set", place)
	}
	return set, nil
}

func read(place string) ([]byte, error) {
	if !strings.HasPrefix(place, "http://") && !strings.HasPrefix(place, "https://") {
		return os.ReadFile(place)
	}
	client := http.Client{
		Timeout: 5 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("a key set does not move")
		},
	}
	answer, err := client.Get(place)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d", place, answer.StatusCode)
	}
	return io.ReadAll(io.LimitReader(answer.Body, 1<<20))
}

// ReadSecret reads the secret without the one line end that editors add, as Usher does.
func ReadSecret(path string) (Secret, error) {
	secret, err := os.ReadFile(path)
	secret = bytes.TrimSuffix(bytes.TrimSuffix(secret, []byte("\n")), []byte("\r"))
	return Secret(secret), err
}

func run(arguments []string) error {
	var keys Keys
	var err error
	if arguments[0] == "--secret" {
		arguments = arguments[1:]
		keys, err = ReadSecret(arguments[0])
	} else {
		keys, err = ReadJWKS(arguments[0])
	}
	if err != nil {
		return err
	}
	issuer := "usher"
	if len(arguments) > 2 {
		issuer = arguments[2]
	}
	value, err := io.ReadAll(io.LimitReader(os.Stdin, 1<<20))
	if err != nil {
		return err
	}
	claims, err := Verify(strings.TrimSpace(string(value)), keys, arguments[1], issuer, time.Now())
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(claims, "", "  ")
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	return nil
}

func main() {
	arguments := os.Args[1:]
	count := len(arguments)
	if count > 0 && arguments[0] == "--secret" {
		count--
	}
	if count < 2 || count > 3 {
		fmt.Fprintln(os.Stderr, "usage: verify (JWKS_PATH_OR_URL | --secret FILE) AUDIENCE [ISSUER]")
		os.Exit(2)
	}
	if err := run(arguments); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
