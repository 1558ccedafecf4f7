/* mincore and msync over many areas, holes and locked pages. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define S(c) do{errno=0;long r=(long)(c);printf("%s: %ld %s\n",#c,r,r<0?strerrorname_np(errno):"");}while(0)
int main(){ long P=4096,n=3000; char*m=mmap(0,(n*2+100)*P,3,MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE,-1,0); static unsigned char v[1<<20];
 for(long i=0;i<n;i++) mprotect(m+i*2*P,P,1);
 memset(v,7,sizeof v); S(mincore(m,n*2*P,v)); { int bad=0; for(int i=0;i<n*2;i++) bad+=v[i]==7; printf("%d %d\n",bad,v[n*2]); }
 S(msync(m,n*2*P,MS_SYNC)); S(msync(m,n*2*P,MS_ASYNC|MS_SYNC)); S(msync(m,0,MS_SYNC));
 munmap(m+5001*P,P); memset(v,7,sizeof v); S(mincore(m,n*2*P,v)); printf("%d\n", v[5001]); S(msync(m,n*2*P,MS_SYNC)); S(msync(m,n*2*P,MS_SYNC|MS_INVALIDATE)); mlock(m+5500*P,P); S(msync(m,n*2*P,MS_SYNC|MS_INVALIDATE)); S(msync(m,n*2*P,MS_SYNC)); S(msync(m,5500*P,MS_SYNC|MS_INVALIDATE)); S(msync(m,5501*P,MS_SYNC|MS_INVALIDATE)); S(msync(m,5000*P,MS_SYNC|MS_INVALIDATE));
 S(mincore(m+5001*P,P,v)); S(mincore(m,P,(void*)8)); S(mincore(m,P*3,m+P*5001)); S(mincore(m,0,v)); S(mincore(m+1,0,v)); S(mincore(m,-1UL,v)); S(msync(m,-1UL,MS_SYNC)); S(msync((void*)(m-(1L<<40)),P,MS_SYNC)); S(mincore(m,P*50,m));return 0;}
