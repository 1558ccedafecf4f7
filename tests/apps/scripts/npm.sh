# needs: node npm
# `npm install` from a registry served on loopback, of a package with a dependency, a program and an install script.
pack() {  # pack NAME VERSION: NAME/ as a package of the registry
    (cd "$1" && npm pack --silent --pack-destination ../registry >/dev/null)
}
mkdir registry leaf tool
cat >leaf/package.json <<'J'
{"name": "leaf", "version": "1.2.3", "main": "index.js"}
J
echo 'module.exports = (a, b) => a + b' >leaf/index.js
cat >tool/package.json <<'J'
{"name": "tool", "version": "2.0.0", "bin": {"tool": "cli.js"}, "dependencies": {"leaf": "^1.0.0"},
 "scripts": {"postinstall": "node -e \"require('fs').writeFileSync('built', 'yes')\""}}
J
printf '#!/usr/bin/env node\nconsole.log("sum", require("leaf")(2, 3), require("fs").readFileSync(__dirname + "/built", "utf8"))\n' >tool/cli.js
chmod +x tool/cli.js
pack leaf; pack tool
cat >server.js <<'J'
const fs = require('fs'), http = require('http'), crypto = require('crypto');
http.createServer((request, response) => {
    const name = decodeURIComponent(request.url.slice(1));
    if (name.endsWith('.tgz')) return fs.createReadStream('registry/' + name).pipe(response);
    const file = fs.readdirSync('registry').find(entry => entry.startsWith(name + '-'));
    if (!file) { response.statusCode = 404; return response.end('{}'); }
    const manifest = JSON.parse(fs.readFileSync(name + '/package.json')), data = fs.readFileSync('registry/' + file);
    manifest.dist = {tarball: `http://127.0.0.1:7874/${file}`,
        integrity: 'sha512-' + crypto.createHash('sha512').update(data).digest('base64')};
    if (manifest.scripts) manifest.hasInstallScript = true;
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({name, 'dist-tags': {latest: manifest.version}, versions: {[manifest.version]: manifest}}));
}).listen(7874, '127.0.0.1', () => fs.writeFileSync('ready', ''));
J
node server.js & server=$!
until [ -e ready ]; do sleep 0.05; done
mkdir app; cd app; echo '{"name": "app", "version": "1.0.0"}' >package.json
npm install --registry http://127.0.0.1:7874 --no-audit --no-fund --no-update-notifier --foreground-scripts tool 2>&1 |
    sed 's/ in [0-9.]*m*s$//'
ls node_modules; ls -l node_modules/.bin | grep -o 'tool -> .*'; npx --no-install tool
rm -rf node_modules; npm ci --prefer-offline --registry http://127.0.0.1:7874 --no-audit --no-fund --no-update-notifier 2>&1 | sed 's/ in [0-9.]*m*s$//'
node node_modules/tool/cli.js
npm install --registry http://127.0.0.1:7874 --no-audit --no-fund --no-update-notifier nothing 2>&1 | grep -m1 -o E404
kill $server; wait $server; echo "server $?"
