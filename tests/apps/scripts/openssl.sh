# needs: openssl
# TLS between two programs, with a certificate made here: both versions, and a server that turns lines around.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -out c -days 2 -subj /CN=localhost 2>/dev/null
openssl s_server -accept 127.0.0.1:7443 -key k -cert c -www -quiet >server 2>&1 & server=$!
until openssl s_client -connect 127.0.0.1:7443 </dev/null >/dev/null 2>&1; do sleep 0.05; done
for version in -tls1_2 -tls1_3; do
    printf 'GET / HTTP/1.0\r\n\r\n' |
        openssl s_client -connect 127.0.0.1:7443 -CAfile c -servername localhost $version -ign_eof 2>/dev/null |
        grep -E '^(HTTP|Verify return code)|^New, ' | sort -u
done
kill $server; wait $server 2>/dev/null
openssl s_server -accept 127.0.0.1:7444 -key k -cert c -rev -quiet 2>/dev/null & server=$!
until openssl s_client -connect 127.0.0.1:7444 </dev/null >/dev/null 2>&1; do sleep 0.05; done
(echo hello; sleep 0.3) | openssl s_client -connect 127.0.0.1:7444 -quiet -no_ign_eof 2>/dev/null
kill $server; wait $server; echo "server $?"
openssl speed -seconds 1 -bytes 1024 -evp sha256 2>/dev/null | grep -c sha256
