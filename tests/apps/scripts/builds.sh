# needs: gcc cmake ninja ccache git sqlite3 busybox curl
# Tools of a build: cmake and ninja, a compiler cache, git over file://, a data base with two writers, busybox's web server.
mkdir project; cat >project/CMakeLists.txt <<'C'
cmake_minimum_required(VERSION 3.10)
project(sum C)
enable_testing()
add_library(parts STATIC a.c b.c)
add_executable(sum main.c)
target_link_libraries(sum parts)
add_test(NAME runs COMMAND sum)
C
echo 'int a(void){return 2;}' >project/a.c; echo 'int b(void){return 3;}' >project/b.c
printf '#include <stdio.h>\nint a(void),b(void);int main(void){printf("sum %%d\\n",a()+b());return 0;}\n' >project/main.c
export CCACHE_DIR=$PWD/cache
cmake -S project -B build -G Ninja -DCMAKE_C_COMPILER_LAUNCHER=ccache >configured 2>&1 || cat configured
ninja -C build | tail -1 | sed 's/^[^]]*//'; build/sum; (cd build && ctest | grep 'tests passed')
ninja -C build; touch project/a.c; ninja -C build -t clean >/dev/null; ninja -C build >/dev/null; build/sum
ccache -s | grep -E '^ +Hits|^  (Hits|Misses)' | head -2 | sed 's/ \+/ /g'
export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z' HOME=$PWD
git config --global user.email a@b; git config --global user.name n; git config --global init.defaultBranch main
git init -q --bare origin.git; git clone -q "file://$PWD/origin.git" one 2>/dev/null; (cd one; seq 2000 >f; git add f; git commit -qm one; git push -q origin HEAD:main)
git clone -q --depth 1 "file://$PWD/origin.git" two; (cd two; echo x >>f; git commit -qam two; git push -q origin HEAD:main; git log --format=%T -1)
(cd one; git pull -q --rebase origin main; git log --oneline | wc -l; git stash list; git worktree add -q ../tree main~1 --detach; git fsck 2>&1 | grep -v '^\(notice\|Checking\)'; git gc -q; git count-objects)
sqlite3 db 'pragma journal_mode=wal; create table t(w, n)'
for w in 1 2; do (echo '.timeout 20000'; for n in $(seq 60); do echo "insert into t values($w, $n);"; done) | sqlite3 db & jobs="$jobs $!"; done; wait $jobs
sqlite3 db 'select w, count(*), sum(n) from t group by w; pragma integrity_check'
mkdir web; echo page >web/index.html; mkdir web/cgi-bin; printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"; echo "query $QUERY_STRING"\n' >web/cgi-bin/q; chmod +x web/cgi-bin/q
busybox httpd -f -p 127.0.0.1:7085 -h web & server=$!
until curl -s -o /dev/null http://127.0.0.1:7085/; do sleep 0.05; done
curl -s http://127.0.0.1:7085/; curl -s 'http://127.0.0.1:7085/cgi-bin/q?a=1'; for n in $(seq 20); do curl -s http://127.0.0.1:7085/index.html; done | sort | uniq -c
kill $server; wait $server; echo "server $?"
