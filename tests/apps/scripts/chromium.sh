# needs: chromium
# A browser without a screen: a page with a script, styles and a worker; a picture of it.
cat >page.html <<'H'
<html><body><p id=p>before</p><script>
document.getElementById('p').textContent = 'sum ' + [1, 2, 3].reduce((a, b) => a + b);
const canvas = document.createElement('canvas'), c = canvas.getContext('2d'); canvas.width = canvas.height = 8;
c.fillStyle = 'rgb(1,2,3)'; c.fillRect(0, 0, 8, 8);
document.body.appendChild(document.createElement('b')).textContent = 'pixel ' + c.getImageData(2, 2, 1, 1).data.join();
</script></body></html>
H
options="--headless --no-sandbox --disable-gpu --user-data-dir=$PWD/profile --no-first-run --disable-dev-shm-usage"
timeout 90 chromium $options --dump-dom "file://$PWD/page.html" 2>log; echo "status $?"
timeout 90 chromium $options --window-size=320,200 --screenshot="$PWD/shot.png" "file://$PWD/page.html" 2>>log; echo "status $?"
file shot.png | grep -o 'PNG image data, 320 x 200'
